"""A panel that is read some latents at a time says what a panel in memory says."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from panels import make_panel
from scipy import stats

from gandid import outcomes
from gandid.did import Effects, blocks, counts, estimands, estimate, inference

pytestmark = pytest.mark.filterwarnings("error")
FAST = {"flips": 99, "resamples": 50}


def same(one: Effects, other: Effects) -> None:
    pd.testing.assert_frame_equal(one.frame, other.frame, check_exact=True)
    pd.testing.assert_frame_equal(one.checks, other.checks, rtol=1e-12)
    assert one.alike == other.alike
    assert one.gains.keys() == other.gains.keys()
    assert all(one.gains[target] == pytest.approx(other.gains[target]) for target in one.gains)


def stored(panel: xr.Dataset, path, rows: int) -> xr.Dataset:
    chunks = {
        name: {"chunks": (rows, *variable.shape[1:])}
        for name, variable in panel.data_vars.items()
        if variable.dims[0] == "latent"
    }
    panel.to_zarr(path, zarr_format=2, encoding=chunks)
    return xr.open_zarr(path, chunks=None)


@settings(max_examples=8)
@given(st.integers(1, 60), st.integers(1, 4000), st.integers(1, 3), st.integers(0, 100))
def test_neither_blocks_nor_threads_nor_order_matter(latents, values, threads, seed):
    panel = make_panel(latents, noise=0.1, seed=seed, controls=["capped"])
    whole = estimate(panel, **FAST)
    shuffled = panel.isel(latent=np.random.default_rng(seed).permutation(latents))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks.slices, "__defaults__", (values,))
        patch.setattr(blocks.stream, "__defaults__", (threads,))
        same(estimate(panel, **FAST), whole)
        same(estimate(shuffled, **FAST), whole)


def test_a_panel_on_disk_is_read_by_whole_chunks_and_once(tmp_path, monkeypatch):
    panel = make_panel(50, noise=0.1)
    lazy = stored(panel, tmp_path / "panel.zarr", 7)
    read: list[tuple[str, slice]] = []
    plain = blocks.read

    def watched(panel, name, block, *dims):
        read.append((name, block))
        return plain(panel, name, block, *dims)

    monkeypatch.setattr(blocks, "read", watched)
    monkeypatch.setattr(blocks.slices, "__defaults__", (1,))
    same(estimate(lazy, **FAST), estimate(panel, **FAST))
    starts = sorted(block.start for name, block in read if name == "pixels")
    assert starts == sorted([*range(0, 50, 7), *range(50)])  # by chunks on disk, by single latents in memory
    assert not any(isinstance(lazy[name].variable._data, np.ndarray) for name in ("pixels", "inside", "strain"))


def test_latents_appended_out_of_order_are_the_same_panel(tmp_path):
    panel = make_panel(30, noise=0.1)
    parts = [panel.isel(latent=slice(20, 30)), panel.isel(latent=slice(0, 20))]
    merged = xr.concat(parts, "latent", data_vars="minimal", coords="minimal", compat="override", join="override")
    same(estimate(stored(merged, tmp_path / "panel.zarr", 4), **FAST), estimate(panel, **FAST))


def test_targets_may_be_counted_in_turns(monkeypatch):
    panel = make_panel(40, ["window", "lamp", "chair"], noise=0.1, absent=["chair"])
    whole = estimate(panel, **FAST)
    monkeypatch.setattr(counts, "HELD_AT_ONCE", 1)
    assert len(list(counts.gather(panel))) == 3
    same(estimate(panel, **FAST), whole)


def test_sums_are_those_of_the_outcomes_definitions():
    panel = make_panel(25, noise=0.1, controls=["mean"], holds=["first"], unedited=True)
    panel["pixels"].loc[{"arm": "mean:first/unedited", "object": "chair"}] += 30
    [found] = counts.gather(estimands.prepare(panel))
    size, target = panel.attrs["image_pixels"], list(panel["object"].values).index("window")
    pixels, inside = (panel[name].sel(target="window") for name in ("pixels", "inside"))
    for e, (arm, base) in enumerate((("live", "reference"), ("mean:first", "mean:first/unedited"))):
        p, p0, i, i0 = (v.sel(arm=a).values for v in (pixels, inside) for a in (arm, base))
        gone, painted = outcomes.removed(i, target), outcomes.inpainted(i, target)
        filled = painted.numerator.copy()
        filled[:, target] = gone.numerator
        defined = {
            "area": (outcomes.area(p, size) - outcomes.area(p0, size)) * size,
            "collateral": (outcomes.collateral(p, i, size) - outcomes.collateral(p0, i0, size)) * size,
            "emerged": outcomes.emerged(p0, p, size),
            "filled": filled,
        }
        for name, values in defined.items():
            np.testing.assert_allclose(found.groups[name][:, 0, e], values, atol=1e-9)
            halves = np.split(values, [12])
            np.testing.assert_allclose(found.sums[name][:, 0, e], [half.sum(0) for half in halves], atol=1e-6)
            np.testing.assert_allclose(found.squares[name][:, 0, e], [(half**2).sum(0) for half in halves], atol=1e-3)
        np.testing.assert_array_equal(found.groups["hole"][:, 0, e], gone.denominator)


@given(st.integers(0, 1000), st.booleans())
def test_exact_sums_give_what_arrays_give(seed, shared):
    rng = np.random.default_rng(seed)
    b = rng.integers(0, 50, 30)
    d = b if shared else rng.integers(0, 50, 30)
    a, c = rng.binomial(b, 0.4), rng.binomial(d, 0.6)
    v = np.array([a, b, c, d])
    found = inference.ratio_from_sums(v.sum(1)[:, None], (v @ v.T)[:, :, None], int(((b > 0) | (d > 0)).sum()))
    known = inference.ratio_effect(a, b, c, d)
    np.testing.assert_allclose([field[0] for field in found[:5]], known[:5], rtol=1e-9, atol=1e-15)
    assert found.n == known.n


def test_sums_that_cancel_lose_nothing():
    # In floating point, squares of 1e8 and the deviation of 1 among them cannot be told apart.
    a = np.array([10**8, 10**8 + 1, 10**8 - 1], object)
    one = np.array([1, 1, 1], object)
    v = np.array([a, one])
    found = inference.ratio_from_sums(v.sum(1)[:, None], (v @ v.T)[:, :, None], 3)
    assert found.value[0] == 1e8
    assert found.se[0] == pytest.approx(np.sqrt(1 / 3), rel=1e-15)


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
    """Beyond `GROUPS` latents, bootstrap and sign flips work on sums by group."""

    @staticmethod
    def grouped(values):
        edges = np.arange(counts.GROUPS) * len(values) // counts.GROUPS
        return np.add.reduceat(values, edges, axis=0)

    def test_bootstrap_errors_agree_within_their_own_error(self, drawn):
        hole, live, held = drawn
        spread = []
        for sums in (lambda values: values, self.grouped):
            draws = [inference.bootstrap(sums(a), sums(np.outer(hole, np.ones(3))), 2000) for a in (live, held)]
            spread.append((draws[0] - draws[1]).std(0))
        # Of 2,000 resamples and of 1,024 groups: 1.6 % and 2.2 %, three times over; more where few latents count.
        np.testing.assert_allclose(spread[1][:2] / spread[0][:2], 1, atol=0.09)
        assert spread[1] / spread[0] == pytest.approx(1, abs=0.2)

    def test_sign_flips_agree(self, drawn):
        _, live, held = drawn
        whole, groups = (inference.permutation(sums(live - held)) for sums in (lambda values: values, self.grouped))
        np.testing.assert_allclose(groups, whole, atol=0.03)
        assert groups[2] < 0.01

    def test_sign_flips_of_groups_are_uniform_under_the_null(self):
        rng = np.random.default_rng(1)
        # Heavy tails, and most latents without any effect, as pairs of classes that seldom meet have.
        values = rng.standard_t(2, (4000, 600)) * (rng.random((4000, 600)) < 0.02)
        p = inference.permutation(self.grouped(values), 999)
        assert stats.kstest(p, "uniform").pvalue > 0.01
        assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.03)

    def test_estimates_of_many_latents(self):
        panel = make_panel(3000, ["window"], noise=0.1, controls=["capped"], holds=["all"], size=32)
        few = make_panel(1000, ["window"], noise=0.1, controls=["capped"], holds=["all"], size=32)
        [found] = counts.gather(panel)
        assert len(found.groups["area"]) == counts.GROUPS
        assert (found.latents == 1500).all()
        rows = estimate(panel, flips=999, resamples=500).frame
        rows = rows[(rows["outcome"] == "inpainted") & (rows["se"] > 0)]
        assert len(rows)
        np.testing.assert_allclose(rows["se_boot"], rows["se"], rtol=0.15)
        [alone] = counts.gather(few)
        assert len(alone.groups["area"]) == 1000


def test_what_cannot_be_summed_exactly_is_refused():
    panel = make_panel(5).assign_attrs(image_pixels=2**31)
    with pytest.raises(ValueError, match="more latents than can be summed exactly"):
        estimate(panel)


def test_counts_must_be_whole_numbers():
    panel = make_panel(5)
    panel["pixels"] = panel["pixels"].astype(float)
    with pytest.raises(ValueError, match="'pixels' are float64, not whole numbers"):
        estimate(panel)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.int64])
def test_any_type_of_whole_numbers_will_do(dtype):
    panel = make_panel(20, noise=0.1)
    other = panel.assign({name: panel[name].astype(dtype) for name in ("pixels", "inside")})
    same(estimate(other, **FAST), estimate(panel, **FAST))
