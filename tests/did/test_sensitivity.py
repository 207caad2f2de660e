import numpy as np
import pandas as pd
import pytest
from panels import make_panel

import gandid
from gandid.did.sensitivity import COLUMNS, baseline_area, breakdown, table
from gandid.did.totals import TOGETHER, objects_inpainted

pytestmark = pytest.mark.filterwarnings("error")

GAP, DOSE = "parallel trends off by the gap", "parallel trends off as at the lowest dose"


def scaled(panel, **areas):
    """The unedited image of `mean` with each named class covering so many times what it does in the network's own."""
    panel = panel.copy(deep=True)
    own = panel["pixels"].sel(arm="mean:all/unedited").copy(deep=True)
    for name, times in areas.items():
        more = (own.sel(object=name) * (times - 1)).round().astype(np.int32)
        own.loc[{"object": name}] += more
        own.loc[{"object": "wall"}] -= more
    panel["pixels"].loc[{"arm": "mean:all/unedited"}] = own
    return panel


@pytest.fixture(scope="module")
def panel():
    made = make_panel(60, controls=["frozen", "mean"], holds=["all"], noise=0.05, unedited=True)
    return scaled(made, window=0.9, lamp=0.5, chair=1.2)


@pytest.fixture(scope="module")
def effects(panel):
    return gandid.did.estimate(panel, flips=1, resamples=0).to_frame()


def pick(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


def test_what_was_measured_is_a_row_and_an_exact_control_has_no_other(panel, effects):
    frame = table(effects, panel)
    assert list(frame.columns) == COLUMNS
    exact = pick(frame, arm="frozen:all")
    assert set(exact["variation"]) == {"as measured"} and exact["breakdown"].isna().all()
    whole = objects_inpainted(panel).set_index(["target", "arm"])
    removed = pick(effects, outcome="removed").set_index(["target", "arm"])
    for row in pick(frame, variation="as measured").itertuples():
        source = removed if row.outcome == "removed" else whole
        assert (row.did, row.ci_low, row.ci_high) == tuple(
            source.loc[(row.target, row.arm), ["did", "ci_low", "ci_high"]]
        )
        assert row.object == (row.target if row.outcome == "removed" else TOGETHER)
    assert not frame.duplicated(["target", "arm", "outcome", "variation"]).any()
    assert list(dict.fromkeys(frame["target"])) == ["window", "lamp"]


def test_the_gap_is_that_of_the_unedited_images(panel, effects):
    frame = table(effects, panel)
    usual = panel["pixels"].isel(target=0).sel(arm="reference").mean("latent") / panel.attrs["image_pixels"]
    expected = {
        ("window", "removed"): 0.1 * usual.sel(object="window"),
        ("lamp", "removed"): 0.5 * usual.sel(object="lamp"),
        # The other objects: fewer lamps, more chairs.
        ("window", "inpainted"): abs(0.5 * usual.sel(object="lamp") - 0.2 * usual.sel(object="chair")),
    }
    for (target, outcome), gap in expected.items():
        (wide,) = pick(frame, target=target, outcome=outcome, variation=GAP).itertuples()
        (narrow,) = pick(frame, target=target, outcome=outcome, arm="mean:all", variation="as measured").itertuples()
        assert wide.did == narrow.did
        assert narrow.ci_low - wide.ci_low == pytest.approx(float(gap), abs=2e-4)  # of whole pixels
        assert wide.ci_high - narrow.ci_high == pytest.approx(float(gap), abs=2e-4)
        seen = wide.ci_high - narrow.ci_high
        assert wide.breakdown == pytest.approx(float(breakdown(narrow.ci_low, narrow.ci_high, seen)))


def lowest(departure=0.02, did=0.05):
    """A dose-response of one row per target and outcome at doses 0.1 and 1."""
    rows = [
        {"target": t, "arm": "mean:all", "outcome": o, "object": t if o == "removed" else TOGETHER, "alpha": alpha}
        | {"did": did * alpha / 0.1, "departure": departure * alpha / 0.1 if alpha < 1 else 9.0}
        for t in ("window", "lamp")
        for o in ("removed", "inpainted")
        for alpha in (0.0, 0.1, 1.0)
    ]
    return pd.DataFrame(rows)


def test_a_violation_that_grows_as_at_the_lowest_dose_is_ten_times_that_of_a_tenth(panel, effects):
    for curve, seen in ((lowest(0.02), 0.2), (lowest(np.nan, 0.05), 0.5)):
        frame = table(effects, panel, curve)
        wide = pick(frame, variation=DOSE).set_index(["target", "outcome"])
        narrow = pick(frame, arm="mean:all", variation="as measured").set_index(["target", "outcome"])
        np.testing.assert_allclose(narrow["ci_low"] - wide["ci_low"], seen)
        np.testing.assert_allclose(wide["ci_high"] - narrow["ci_high"], seen)
        np.testing.assert_allclose(wide["breakdown"], breakdown(narrow["ci_low"], narrow["ci_high"], seen))
    half = panel.assign_attrs(alpha=0.5)
    wide = pick(table(effects, half, lowest(0.02)), variation=DOSE).set_index(["target", "outcome"])
    np.testing.assert_allclose(narrow["ci_low"] - wide["ci_low"], 0.1)


def test_other_segmenters_and_corrections_are_rows_beside(panel, effects):
    removed = pick(effects, outcome="removed", arm="frozen:all")
    labels = removed[["target", "object", "outcome", "control", "held", "arm", "did", "ci_low", "ci_high"]]
    second = labels.assign(did_second=0.5, ci_second_low=0.4, ci_second_high=0.6)
    by_chair = labels.assign(outcome="inpainted", object="chair", did_second=0.1)  # of its own table
    frame = table(effects, panel, second=pd.concat([second, by_chair]), corrected=labels.assign(did=0.7))
    assert (
        pick(frame, variation="second segmenter")[["did", "ci_low", "ci_high"]].to_numpy().tolist()
        == [[0.5, 0.4, 0.6]] * 2
    )
    assert list(pick(frame, variation="confusion corrected")["did"]) == [0.7, 0.7]
    assert len(pick(frame, target="window", arm="frozen:all", outcome="removed")) == 3


def test_a_target_that_is_not_estimable_is_left_out():
    panel = make_panel(40, absent=["lamp"])
    frame = table(gandid.did.estimate(panel, flips=1, resamples=0).to_frame(), panel)
    assert set(frame["target"]) == {"window"}


def test_regimes_that_show_as_much_of_the_target_pass_and_others_do_not(panel):
    rows = {row["target"]: row for row in baseline_area(panel)}
    assert rows["window"]["verdict"] == "ok" and rows["window"]["value"] == pytest.approx(0.9, abs=0.01)
    assert rows["lamp"]["verdict"] == "flagged" and rows["lamp"]["value"] == pytest.approx(0.5, abs=0.01)
    assert rows["lamp"]["arm"] == "mean:all" and rows["lamp"]["bound"] == 0.7
    (row,) = (row for row in baseline_area(scaled(panel, window=2.0)) if row["target"] == "window")
    assert row["verdict"] == "flagged" and row["bound"] == pytest.approx(1.43, abs=0.01)


def test_controls_whose_baseline_is_the_network_s_own_have_no_baseline_area():
    assert not list(baseline_area(make_panel(20)))
