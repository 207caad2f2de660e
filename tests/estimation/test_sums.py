"""One pass: sums over groups of latents are those of the definitions, whatever the blocks, the threads and the order."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from panels import make_panel
from scipy import stats

from gandid.errors import GandidError
from gandid.estimation import did
from gandid.estimation.contents import Contents
from gandid.estimation.contrast import parts
from gandid.estimation.sums import GROUPS, gather, slices, stream
from gandid.stats import bootstrap, permutation

pytestmark = pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # of what other tests left to the collector
FAST = {"flips": 99, "resamples": 50}


def sums_of(panel, **options):
    contents = Contents(panel)
    return contents, gather(contents, contents.study, **options)


def test_parts_are_those_of_the_outcomes_definitions():
    panel = make_panel(25, noise=0.1, controls=["mean"], holds=["first"])
    panel["pixels"].loc[{"arm": "mean:first/unedited", "object": "chair"}] += 30
    contents, sums = sums_of(panel)
    size, target = panel.attrs["image_pixels"], list(panel["object"].values).index("window")
    pixels, inside = (panel[name].isel(segmenter=0).sel(target="window") for name in ("pixels", "inside"))
    for arm, base in (("live", "reference"), ("mean:first", "mean:first/unedited")):
        p, p0, i, i0 = (v.sel(arm=a).values for v in (pixels, inside) for a in (arm, base))
        place = sums.arms.index(contents.names.index(arm))
        least, hole = 0.003 * size, i.sum(axis=1)
        defined = {
            "area": p - p0,
            "collateral": (p - i) - (p0 - i0),
            "emerged": (p0 < least) & (p >= least),
            "removed": (hole - i[:, target])[:, None],
            "inpainted": np.delete(i, target, 1),
        }
        for outcome, values in defined.items():
            found = parts(contents, sums, 0, outcome)
            np.testing.assert_allclose(found.numerator[:, place, : values.shape[1]], values, atol=1e-9)
        np.testing.assert_array_equal(sums.inside[:, 0, place].sum(axis=1), hole)
        together = found.numerator[:, place, -1]
        np.testing.assert_array_equal(together, found.numerator[:, place][:, found.kinds == "object"].sum(1))


@pytest.mark.slow
@settings(max_examples=4)
@given(st.integers(1, 60), st.integers(1, 4000), st.integers(1, 3), st.integers(0, 100))
def test_neither_blocks_nor_threads_nor_order_matter(latents, values, threads, seed):
    panel = make_panel(latents, noise=0.1, seed=seed, controls=["capped"])
    shuffled = panel.isel(latent=np.random.default_rng(seed).permutation(latents))
    whole = did(panel, **FAST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "__defaults__", (None, values))
        patch.setattr(stream, "__defaults__", (threads,))
        for other in (panel, shuffled):
            found = did(other, **FAST)
            pd.testing.assert_frame_equal(found.frame, whole.frame, check_exact=True)
            pd.testing.assert_frame_equal(found.checks, whole.checks, rtol=1e-12)


def test_only_what_was_measured_is_read():
    panel = make_panel(100, noise=0.1, draws=1)
    contents = Contents(panel)
    arm = contents.place(contents.live._replace(draw=1))
    sums = gather(contents, [arm])
    assert sums.latents.sum() == len(sums.shown) == 64
    hole = panel["inside"].isel(segmenter=0, latent=slice(64)).sel(arm="live#1").sum("object").values
    np.testing.assert_array_equal(sums.inside[:, :, sums.arms.index(arm)].sum(axis=2), hole)


def test_counts_that_are_missing_are_seen():
    panel = make_panel(20)
    panel["pixels"].loc[{"latent": slice(7, 9), "arm": "capped:all"}] = -1
    with pytest.raises(GandidError, match="damaged: counts are missing for latents 7 to 9"):
        did(panel, **FAST)


def test_unrecognized_pixels_that_are_missing_are_seen():
    panel = make_panel(20)
    shared = xr.zeros_like(panel["pixels"].isel(object=0, drop=True))
    assert did(panel.assign(shared=shared), **FAST).frame["paired_low"].notna().any()
    shared.loc[{"latent": slice(7, 9), "arm": "capped:all"}] = -1
    with pytest.raises(GandidError, match="damaged: counts are missing for latents 7 to 9"):
        did(panel.assign(shared=shared), **FAST)


@pytest.mark.parametrize("dtype", [np.int16, np.int64])
def test_any_type_of_whole_numbers_will_do(dtype):
    panel = make_panel(20, noise=0.1)
    other = panel.assign({name: panel[name].astype(dtype) for name in ("pixels", "inside")})
    pd.testing.assert_frame_equal(did(other, **FAST).frame, did(panel, **FAST).frame)


@pytest.fixture(scope="module")
def drawn():
    """Pixels of 5,000 holes, and what live and held fill of them; the last columns' effects are carried by few latents."""
    rng = np.random.default_rng(0)
    hole = rng.integers(1, 400, 5000) * (rng.random(5000) < 0.3)
    rare = rng.random((5000, 3)) < [0.5, 0.03, 0.01]
    live = rng.binomial(hole[:, None], 0.2 * rare)
    held = rng.binomial(hole[:, None], np.array([0.198, 0.15, 0.03]) * rare)
    return hole.astype(float), live.astype(float), held.astype(float)


class TestManyLatents:
    """Beyond `GROUPS` latents, errors, bootstrap and sign flips work on sums by group."""

    @staticmethod
    def grouped(values):
        edges = np.arange(GROUPS) * len(values) // GROUPS
        return np.add.reduceat(values, edges, axis=0)

    def test_bootstrap_errors_agree_within_their_own_error(self, drawn):
        hole, live, held = drawn
        spread = []
        for sums in (lambda values: values, self.grouped):
            draws = [bootstrap(sums(a), sums(hole[:, None]), 2000) for a in (live, held)]
            spread.append((draws[0] - draws[1]).std(0))
        # Of 2,000 resamples and of 1,024 groups: 1.6 % and 2.2 %, three times over; more where few latents count.
        np.testing.assert_allclose(spread[1][:2] / spread[0][:2], 1, atol=0.09)
        assert spread[1] / spread[0] == pytest.approx(1, abs=0.2)

    def test_sign_flips_agree(self, drawn):
        _, live, held = drawn
        whole, groups = (permutation(sums(live - held)) for sums in (lambda values: values, self.grouped))
        np.testing.assert_allclose(groups, whole, atol=0.03)
        assert groups[2] < 0.01

    def test_sign_flips_of_groups_are_uniform_under_the_null(self):
        rng = np.random.default_rng(1)
        # Heavy tails, and most latents without any effect, as pairs of classes that seldom meet have.
        values = rng.standard_t(2, (4000, 600)) * (rng.random((4000, 600)) < 0.02)
        p = permutation(self.grouped(values), 999)
        assert stats.kstest(p, "uniform").pvalue > 0.01

    def test_estimates_of_many_latents_are_those_of_the_latents(self):
        panel = make_panel(3000, ["window"], noise=0.1, controls=["capped"], holds=["all"], size=32)
        _, sums = sums_of(panel)
        assert len(sums.latents) == GROUPS and sums.latents.sum() == 3000 and sums.latents[sums.late].sum() == 1500
        rows = did(panel, flips=999, resamples=500).frame
        row = rows[(rows["outcome"] == "inpainted") & (rows["object"] == "painting")].iloc[0]
        inside = panel["inside"].isel(segmenter=0).sel(target="window", object=["window", "painting"])
        hole = panel["inside"].isel(segmenter=0).sel(target="window", arm="live").sum("object").values
        gap = (inside.sel(arm="live") - inside.sel(arm="capped:all")).sel(object="painting").values
        assert row["did"] == pytest.approx(gap.sum() / hole.sum())
        influence = (gap - row["did"] * hole) / hole.sum()
        assert row["se"] == pytest.approx(
            np.sqrt((influence**2).sum()), rel=0.08
        )  # of 1,024 groups: 2.2 %, thrice over
        assert row["n"] == (hole > 0).sum()
        assert row["se_boot"] == pytest.approx(row["se"], rel=0.15)
