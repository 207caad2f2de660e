"""The estimator: closed forms, econometrics packages, the bootstrap, and what must not change it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panels import make_panel

from gandid.estimation import did
from gandid.estimation.contents import Contents
from gandid.estimation.contrast import Parts, contrast, flip_values, parts
from gandid.estimation.sums import gather
from gandid.stats import bootstrap, permutation

# The deprecations are pyfixest's use of pandas.
pytestmark = pytest.mark.filterwarnings("error", "ignore::DeprecationWarning", "ignore::ResourceWarning")


def of_arrays(numerators, denominators):
    """Parts of one class from arrays (n,), one per arm."""
    names = np.array(["c"], object)
    a, b = np.stack(numerators, 1)[..., None].astype(float), np.stack(denominators, 1).astype(float)
    return Parts(names, names, a, b)


def ratio(live, size, held=None, other=None):
    """Fields of a ratio, or of a difference of two, as numbers."""
    if held is None:
        found = contrast(of_arrays([live], [size]), [1], carriers=np.inf)
    else:
        found = contrast(of_arrays([live, held], [size, other]), [1, -1], carriers=np.inf)
    return {name: float(values.item()) for name, values in found._asdict().items()}


def draw(n, seed=0):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 200, n) * (rng.random(n) < 0.8)
    live = rng.binomial(size, np.clip(rng.normal(0.6, 0.15, n), 0, 1))
    held = rng.binomial(size, np.clip(rng.normal(0.7, 0.15, n), 0, 1))
    return live.astype(float), held.astype(float), size.astype(float)


def test_closed_form():
    found = ratio(np.array([1.0, 3.0]), np.array([2.0, 4.0]))
    # R = 4/6; psi = (a - R b) / 3 = (-1/9, 1/9)
    assert found["value"] == pytest.approx(2 / 3)
    assert found["se"] == pytest.approx(1 / 9)
    mean = ratio(np.array([1.0, 2.0, 6.0]), np.ones(3))
    assert (mean["value"], mean["se"]) == (pytest.approx(3), pytest.approx(np.sqrt(7 / 3)))


def test_a_ratio_is_weighted_least_squares_clustered_by_latent():
    # A ratio of sums is the weighted mean of per-image ratios, weights the target's pixels.
    pf = pytest.importorskip("pyfixest")
    live, _, size = draw(60)
    seen = size > 0
    data = pd.DataFrame({"y": live[seen] / size[seen], "w": size[seen], "latent": np.arange(seen.sum())})
    fit = pf.feols("y ~ 1", data, vcov={"CRV1": "latent"}, weights="w", ssc=pf.ssc(k_adj=False, G_adj=True)).tidy()
    found = ratio(live, size)
    assert found["value"] == pytest.approx(fit["Estimate"].iloc[0])
    assert found["se"] == pytest.approx(fit["Std. Error"].iloc[0])


@pytest.mark.parametrize("shared", [True, False])
def test_errors_and_intervals_agree_with_the_bootstrap(shared):
    live, held, size = draw(400)
    other = size if shared else size + np.random.default_rng(5).poisson(30, 400)
    found = ratio(live, size, held, other)
    draws = bootstrap(np.stack([live, held], 1), np.stack([size, other], 1), 4000)
    gap = draws[:, 0] - draws[:, 1]
    assert found["se"] == pytest.approx(gap.std(ddof=1), rel=0.06)
    ends = np.percentile(gap, [2.5, 97.5])
    np.testing.assert_allclose([found["low"], found["high"]], ends, atol=0.25 * found["se"])


@given(st.integers(0, 1000), st.integers(0, 30))
def test_swapping_arms_turns_the_sign_and_latents_without_the_target_change_nothing(seed, more):
    live, held, size = draw(25, seed)
    one, other = ratio(live, size, held, size), ratio(held, size, live, size)
    assert one["value"] == pytest.approx(-other["value"])
    assert (one["se"], one["low"]) == (pytest.approx(other["se"]), pytest.approx(-other["high"]))
    pad = [np.concatenate([x, np.zeros(more)]) for x in (live, size, held, size)]
    assert ratio(*pad) == pytest.approx(one)


def test_intervals_cover():
    truth, hits = -0.1, 0
    for seed in range(400):
        live, held, size = draw(80, seed)
        found = ratio(live, size, held, size)
        hits += found["low"] <= truth <= found["high"]
    # Clipping the shares to 0 .. 1 moves the truth by less than a tenth of the error.
    assert hits / 400 == pytest.approx(0.95, abs=0.03)


def test_arms_that_cancel_leave_nothing_not_even_rounding():
    """A third, a sixth and a half of one arm against the whole of it: certain, whatever floating point makes of it."""
    live, _, size = draw(40)
    nothing = contrast(of_arrays([live] * 4, [size] * 4), [1 / 3, 1 / 6, 1 / 2, -1])
    assert nothing.value == nothing.se == nothing.carriers == 0 and nothing.p == 1


def test_a_difference_of_differences_is_paired_by_latent():
    """An effect that is the same in every latent has no error, though each of its parts varies over latents."""
    live, held = np.random.default_rng(0).integers(0, 50, (2, 30))
    part = of_arrays([live, held, live + 7, held + 3], [np.ones(30)] * 4)
    found = contrast(part, [[1, -1, 0, 0], [-1, 1, 1, -1]])
    assert found.value[1, 0] == pytest.approx(4) and found.se[1, 0] == 0
    assert found.se[0, 0] > 1


def test_an_arm_that_never_shows_the_target_says_nothing():
    part = of_arrays([np.ones(5), np.zeros(5)], [np.ones(5), np.zeros(5)])
    found = contrast(part, [1, -1])
    assert np.isnan([found.value, found.se, found.low]).all()
    assert contrast(part, [1, 0]).value == 1


def test_a_few_carriers_make_a_wide_interval():
    live = np.zeros(200)
    live[:5] = 1, 2, 1, 3, 1
    found = contrast(of_arrays([live, 0 * live], [np.ones(200)] * 2), [1, -1])
    assert found.carriers == 5
    assert ((found.high - found.value) / found.se).item() == pytest.approx(2.776, abs=1e-3)  # t, 4 degrees


def test_sign_flips_do_not_see_the_sizes_of_two_networks_holes():
    """Of two networks that remove the same share, holes of very different sizes are no evidence."""
    rng, rejected = np.random.default_rng(0), 0
    for _ in range(200):
        sizes = rng.integers(20, 400, (2, 60)) * (rng.random((2, 60)) < 0.7)
        removed = rng.binomial(sizes, rng.beta(6, 2, sizes.shape))
        values = flip_values(of_arrays(removed, sizes), [1, -1])[:, 0]
        rejected += permutation(values, 199)[0] <= 0.05
    assert 0.01 < rejected / 200 < 0.10


@pytest.fixture(scope="module")
def panel():
    return make_panel(150, controls=["frozen"], holds=["first"], noise=0.05)


@pytest.fixture(scope="module")
def long(panel):
    """Area of painting per latent, edit and regime; the reference is the unedited arm of both."""
    area = panel["pixels"].sel(segmenter="synthetic", target="window", object="painting").to_series().unstack("arm")
    cells = {(1, 1): "live", (0, 1): "reference", (1, 0): "frozen:first", (0, 0): "reference"}
    size = panel.attrs["image_pixels"]
    frames = [
        pd.DataFrame({"y": area[arm].to_numpy() / size, "edit": edit, "live": live, "latent": np.arange(150)})
        for (edit, live), arm in cells.items()
    ]
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def mine(panel):
    frame = did(panel, flips=9, resamples=2).main
    return frame[(frame["target"] == "window") & (frame["object"] == "painting") & (frame["outcome"] == "area")].iloc[0]


def test_pyfixest_finds_the_same_did_and_error(long, mine):
    pf = pytest.importorskip("pyfixest")
    fit = pf.feols(
        "y ~ edit * live | latent", long, vcov={"CRV1": "latent"}, ssc=pf.ssc(k_adj=False, G_adj=True)
    ).tidy()
    fit = fit.loc["edit:live"]
    assert fit["Estimate"] == pytest.approx(mine["did"])
    assert fit["Std. Error"] == pytest.approx(mine["se"])
    assert [fit["2.5%"], fit["97.5%"]] == pytest.approx([mine["ci_low"], mine["ci_high"]])
    assert fit["Pr(>|t|)"] == pytest.approx(mine["p_t"], rel=1e-6)


def test_diff_diff_finds_the_same_did_and_error(long, mine):
    peer = pytest.importorskip("diff_diff")
    data = long.rename(columns={"live": "treated", "edit": "after"})
    fit = peer.DifferenceInDifferences(cluster="latent").fit(data, outcome="y", treatment="treated", post="after")
    assert fit.att == pytest.approx(mine["did"])
    # Its small-sample factor counts the four parameters of the regression: (4n - 1) / (4n - 4).
    assert fit.se == pytest.approx(mine["se"] * np.sqrt((4 * 150 - 1) / (4 * 150 - 4)))


def test_every_outcome_has_the_classes_that_it_is_about(panel):
    contents = Contents(panel)
    sums = gather(contents, contents.study)
    for outcome, classes in {"area": 9, "removed": 1, "inpainted": 9, "collateral": 9, "emerged": 9}.items():
        found = parts(contents, sums, 0, outcome)
        assert found.numerator.shape == (150, 3, classes)
        assert ("window" in found.objects) == (outcome != "inpainted")
