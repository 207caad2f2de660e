"""Networks as clusters: against scipy's Welch test, closed forms, and coverage over simulated trainings."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panels import make_panel
from scipy import stats

from gandid.did import estimate
from gandid.did.networks import Network, pooled, table
from gandid.did.totals import objects_inpainted

VALUE = st.floats(-1, 1).map(lambda value: round(value, 3))


@pytest.mark.filterwarnings("ignore:Precision loss")  # scipy, of values that are all the same
@given(st.lists(VALUE, min_size=2, max_size=6), st.lists(VALUE, min_size=2, max_size=6), st.sampled_from([0.9, 0.95]))
def test_several_of_each_are_welchs_test(live, twins, level):
    found = pooled([Network(value) for value in live], [Network(value) for value in twins], level)
    if np.ptp(live) == np.ptp(twins) == 0:
        assert found.low == found.high == found.did == pytest.approx(live[0] - twins[0])
        return
    reference = stats.ttest_ind(live, twins, equal_var=False)
    assert found.p == pytest.approx(reference.pvalue, rel=1e-9)
    assert found.degrees == pytest.approx(reference.df)
    interval = reference.confidence_interval(level)
    assert (found.low, found.high) == (pytest.approx(interval.low, abs=1e-12), pytest.approx(interval.high, abs=1e-12))
    assert found.networks == (len(live), len(twins))


def test_one_network_against_several_is_the_prediction_interval_of_a_new_draw():
    twins = [Network(0.1), Network(0.2), Network(0.6)]
    found = pooled([Network(0.9)], twins)
    assert found.did == pytest.approx(0.6)
    assert found.se == pytest.approx(np.sqrt(0.07) * np.sqrt(1 + 1 / 3))  # s^2 = (0.04 + 0.01 + 0.09) / 2
    assert found.degrees == 2
    assert found.high - found.did == pytest.approx(4.302653 * found.se, rel=1e-6)
    other = pooled(twins, [Network(0.9)])
    assert (other.did, other.se, other.p) == (pytest.approx(-found.did), found.se, pytest.approx(found.p))


@pytest.mark.parametrize("networks", [(1, 3), (3, 3), (2, 5)])
def test_intervals_cover_over_trainings_although_latents_say_each_network_exactly(networks):
    rng = np.random.default_rng(0)
    effect, covered = 0.3, 0
    for _ in range(1500):
        live, twins = rng.normal(effect, 1, networks[0]), rng.normal(0, 1, networks[1])
        found = pooled([Network(value, 0.001) for value in live], [Network(value, 0.001) for value in twins])
        covered += found.low <= effect <= found.high
    # Welch's approximation errs on the side of caution with this few; the new draw's interval is exact.
    assert 0.935 < covered / 1500 < 0.985
    assert found.se > 50 * found.se_latents


def test_one_network_and_one_twin_have_no_interval_over_networks():
    found = pooled([Network(0.9, 0.03)], [Network(0.5, 0.04)])
    assert found.did == pytest.approx(0.4)
    assert found.se_latents == pytest.approx(0.05)
    assert np.isnan([found.se, found.low, found.high, found.p, found.degrees]).all()
    with pytest.raises(ValueError, match="0 networks with normalization and 1 without: a comparison needs both"):
        pooled([], [Network(0.5)])


def test_errors_over_latents_average_over_networks():
    found = pooled([Network(0, 0.3), Network(0, 0.4)], [Network(0, 0.6)] * 4)
    assert found.se_latents == pytest.approx(np.sqrt(0.25**2 + 0.3**2))
    assert (found.did, found.se, found.p) == (0, 0, 1)


def test_the_table_of_a_run_has_every_twin_and_their_difference():
    names = ("one", "two", "three")
    plan = {"live": {"wall": 0.4, "painting": 0.2}}
    plan |= {name: {"wall": 0.4, "painting": 0.05 * number} for number, name in enumerate(names)}
    panel = make_panel(60, controls=["capped", "twin"], holds=names, plan=plan, noise=0.05, unedited=True)
    effects = estimate(panel, flips=9, resamples=2)
    found = table(effects.frame, objects_inpainted(panel))
    assert list(found["target"].unique()) == ["window", "lamp"]
    of = found[found["target"] == "window"]
    assert list(of["object"])[:2] == ["window", "other objects"]
    assert set(of["object"]) == set(panel["object"].values) | {"other objects"}
    assert (found["networks"] == "1 live, 3 twins").all()
    row = of[of["object"] == "painting"].iloc[0]
    twins = [row[f"tau_twin:{name}"] for name in names]
    np.testing.assert_allclose(twins, [0, 0.05, 0.1], atol=0.02)
    assert row["did"] == pytest.approx(row["tau_live"] - np.mean(twins))
    assert row["se"] == pytest.approx(np.std(twins, ddof=1) * np.sqrt(4 / 3))
    assert row["ci_high"] - row["did"] == pytest.approx(4.302653 * row["se"], rel=1e-6)
    frame = effects.frame[(effects.frame["arm"] == "twin:two") & (effects.frame["outcome"] == "removed")]
    gone = of[of["outcome"] == "removed"].iloc[0]
    assert gone["tau_twin:two"] == frame[frame["target"] == "window"]["tau_held"].iloc[0]
    together = objects_inpainted(panel).set_index(["target", "arm"])
    joint = of[of["object"] == "other objects"].iloc[0]
    assert joint["tau_twin:two"] == together.loc[("window", "twin:two"), "tau_held"]


def test_of_a_target_that_no_image_shows_nothing_is_said():
    panel = make_panel(30, controls=["twin"], holds=["one", "two"], unedited=True, absent=["lamp"])
    found = table(estimate(panel, flips=9, resamples=2).frame, objects_inpainted(panel))
    numbers = found.select_dtypes("number").isna().groupby(found["target"]).agg(["all", "any"])
    assert numbers.loc["lamp"].all()
    assert not numbers.loc["window"].any()


def test_one_twin_has_a_table_without_intervals_and_none_an_empty_one():
    one = make_panel(30, controls=["twin"], holds=["all"], unedited=True)
    found = table(estimate(one, flips=9, resamples=2).frame, objects_inpainted(one))
    assert found[["se", "ci_low", "ci_high"]].isna().to_numpy().all()
    assert (found["networks"] == "1 live, 1 twin").all()
    assert found["did"].notna().all()
    none = make_panel(30, controls=["capped"])
    empty = table(estimate(none, flips=9, resamples=2).frame, objects_inpainted(none))
    assert isinstance(empty, pd.DataFrame)
    assert empty.empty
