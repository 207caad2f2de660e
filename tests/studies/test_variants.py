"""Variants of a design: matched sets of units, and stores whose every slice is a panel of the same experiment."""

import multiprocessing
import time
from dataclasses import replace
from itertools import combinations
from math import comb

import killable
import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from planted import Paint, PlantedGenerator, PlantedSegmenter
from torch import nn

import gandid
from gandid.did import shapley
from gandid.errors import GandidError, UsageError
from gandid.generators.pggan import PixelNorm
from gandid.interventions import Runner, ablate
from gandid.studies import variants
from gandid.studies.design import Design, Held
from gandid.studies.executors import Failed, Local
from gandid.studies.latents import latents
from gandid.studies.variants import Variants, matched

ALPHAS = (0.0, 0.25, 0.5, 0.8, 1.0)
UNITS = {"a": [0], "b": [1]}
N = 40


class Chain(nn.Module):
    """The planted scene, whose channels several pixel normalizations mix again and again; one site cannot respond."""

    latent_dim = 1
    layers = ("paint",)

    def __init__(self, sites: int):
        super().__init__()
        self.paint = Paint(1.0)
        self.norms = nn.ModuleList(PixelNorm() for _ in range(sites))
        self.stored = nn.BatchNorm2d(3)
        self.eval()
        mixing = torch.rand(sites, 3, 3, generator=torch.Generator().manual_seed(0))
        self.mixing = nn.Parameter(torch.eye(3) + 0.4 * mixing, requires_grad=False)

    def forward(self, z):
        x = self.paint(z)
        for norm, weight in zip(self.norms, self.mixing, strict=True):
            x = torch.einsum("oc,nchw->nohw", weight, norm(x))
        return self.stored(x)


class Twin(nn.Module):
    """The planted scene without the normalization."""

    latent_dim = 1
    layers = ("paint",)

    def __init__(self):
        super().__init__()
        self.paint = Paint(1.0)

    def forward(self, z):
        return self.paint(z) / 2


def run(folder, generator, *, targets=UNITS, n=N, executor=None, **how):
    """A study of named units, and what measures its variants."""
    twins = {"plain": Twin()} if "twin" in how.get("control", ()) else {}
    study = gandid.Study(generator, PlantedSegmenter(), layer="paint", seed=3, twins=twins)
    how = {"control": ["capped", "frozen"], "hold": ["first", "all"], "ranking_latents": 12} | how
    panel = study.run(targets, units=1, latents=n, **how)
    held = [Held(control, which) for control in how["control"] if control != "twin" for which in how["hold"]]
    edits = {target: ablate(tuple(units)) for target, units in targets.items()}
    design = Design(edits, tuple(held), shrinking=True)
    if twins:
        units = panel["twin_units"].values[0]
        own = {target: ablate(tuple(units[t][units[t] >= 0].tolist())) for t, target in enumerate(edits)}
        design = Design(edits, tuple(held), shrinking=True, twins={Held("twin", "all"): own})
    networks = {twin: Twin() for twin in design.twins}
    folder.mkdir(exist_ok=True)
    made = Variants(
        folder, study.runner, study.segmenter, design, panel.attrs, n, 12, 44, executor or Local(), networks
    )
    return panel, made


def measure(made, **asked):
    """Measure what is asked for, and read it; how many images were made is what was told."""
    stores = []
    for variant in made.asked(**asked):
        told = []
        assert not made.has(variant)
        variant.write(told.append)
        assert sum(told) == variant.images
        assert made.has(variant)
        with xr.open_zarr(made.folder / variant.name, chunks=None) as stored:
            stores.append(stored.load())
    return stores


# Matched sets


sets = st.integers(2, 12).flatmap(
    lambda units: st.tuples(
        st.lists(st.floats(0, 100, allow_subnormal=False), min_size=units, max_size=units).map(np.array),
        st.integers(1, units // 2),
        st.integers(0, 2**32),
    )
)


@given(sets, st.integers(1, 20), st.sampled_from([0.02, 0.1, 0.5]))
def test_matched_sets_are_others_differ_and_are_as_near_as_swaps_bring_them(drawn, count, tolerance):
    energy, size, seed = drawn
    own = np.random.default_rng(seed).choice(len(energy), size, replace=False).tolist()
    count = min(count, comb(len(energy) - size, size))
    found = matched(energy, own, count, tolerance, np.random.default_rng(seed))
    assert found.shape == (count, size)
    assert not set(found.ravel().tolist()) & set(own)
    assert all(len(set(some)) == size for some in found.tolist())
    assert len({tuple(some) for some in found.tolist()}) == count
    np.testing.assert_array_equal(found, matched(energy, own, count, tolerance, np.random.default_rng(seed)))
    # Whatever is not near enough has no nearer neighbour that was not found before it.
    wanted, others, before = energy[own].sum(), set(range(len(energy))) - set(own), set()
    slack = 1e-9 * (1 + energy.sum())
    for some in map(frozenset, found.tolist()):
        gap = abs(energy[list(some)].sum() - wanted)
        before.add(some)
        if gap > tolerance * wanted + slack:
            neighbours = (some - {out} | {into} for out in some for into in others - some)
            nearer = {n for n in neighbours if abs(energy[list(n)].sum() - wanted) < gap - slack}
            assert nearer <= before


def test_all_sets_are_found_where_all_are_asked_for():
    energy = np.arange(8.0)
    found = matched(energy, [6, 7], comb(6, 2), 0.02, np.random.default_rng(0))
    assert {tuple(some) for some in found.tolist()} == set(combinations(range(6), 2))
    with pytest.raises(ValueError, match="6 units have fewer than 16 sets of 2"):
        matched(energy, [6, 7], 16, 0.02, np.random.default_rng(0))


def test_sets_of_a_layer_are_matched_and_have_little_in_common():
    energy = np.random.default_rng(0).gamma(2.0, size=128)
    own = np.argsort(energy)[::-1][:60:3]  # 20 of the 60 strongest
    found = matched(energy, own, 50, variants.TOLERANCE, np.random.default_rng(1))
    np.testing.assert_allclose(energy[found].sum(axis=1), energy[own].sum(), rtol=variants.TOLERANCE)
    shared = [len(set(one) & set(other)) for one, other in combinations(found.tolist(), 2)]
    assert np.mean(shared) < 12


def test_energies_are_means_of_squares():
    runner = Runner(PlantedGenerator(faint=0.5), "paint")
    z = latents(3, range(40), 1)
    means, energies = variants.moments(runner, z, rows=6)
    shown = (z > 0).double().mean().item()
    np.testing.assert_allclose(means, [3 / 2, 0.5 / 2 * shown, 1], rtol=1e-6)
    np.testing.assert_allclose(energies, [9 / 2, 0.25 / 2 * shown, 1], rtol=1e-6)


# Designs


def test_placebos_keep_the_kind_of_the_edit():
    held = (Held("frozen", "all"), Held("mean", "all"))
    energies, means = np.ones(9), torch.arange(9.0)
    for kind in ("zero", "mean", "resample"):
        edits = {"a": ablate((0, 1), kind, means=means, alpha=0.5), "b": ablate((2,), kind, means=means, alpha=0.5)}
        drawn = variants.placebos(Design(edits, held, shrinking=False), energies, 5, 7, kind, means)
        assert [one.held for one in drawn] == [held[:1]] * 5
        for one in drawn:
            for target, edit in one.edits.items():
                assert not set(edit.units) & set(edits[target].units)
                assert (len(edit.units), edit.alpha) == (len(edits[target].units), 0.5)
                if kind == "resample":
                    assert edit.values is None
                else:
                    expected = means[list(edit.units)] if kind == "mean" else torch.zeros(len(edit.units))
                    torch.testing.assert_close(edit.values, expected)


def test_there_are_as_many_placebos_as_there_are_sets():
    design = Design({"a": ablate((0,)), "b": ablate((1, 2))}, (Held("capped", "all"),), shrinking=True)
    drawn = variants.placebos(design, np.ones(6), 50, 0)
    assert len(drawn) == 5  # b has 6 sets of the others, a only 5
    few = variants.placebos(design, np.ones(6), 2, 0)
    assert [[edit.units for edit in one.edits.values()] for one in (*few, *drawn[2:])] == [
        [edit.units for edit in one.edits.values()] for one in drawn
    ]
    with pytest.raises(UsageError, match="b: 2 of 3 units are edited, which leaves no placebo: edit fewer"):
        variants.placebos(design, np.ones(3), 50, 0)
    with pytest.raises(UsageError, match="add capped or frozen"):
        variants.placebos(Design(design.edits, (Held("mean", "all"),), shrinking=True), np.ones(6), 50, 0)


def test_held_sets_are_the_complements_of_the_live_ones():
    runner = Runner(Chain(3), "paint")
    design = Design({"a": ablate((0,))}, (Held("capped", "first"),), shrinking=True)
    held = variants.sites(design, runner, "frozen").held
    names = [f"norms.{i}" for i in range(3)]
    assert [one.control for one in held] == ["frozen"] * 7
    expected = ["+".join(some) for size in (3, 2, 1) for some in combinations(names, size)]
    assert sorted(one.which for one in held) == sorted(expected)
    assert held[0].which == "norms.0+norms.1+norms.2"
    many = variants.sites(design, Runner(Chain(9), "paint"), "capped", seed=5).held
    assert (
        len(many) == len(shapley.sampled_weights(9, variants.ORDERS, 5)[0]) - 1
    )  # all but the one with every site live


# Stores


@pytest.fixture(scope="module")
def dosed(tmp_path_factory):
    controls = ["capped", "frozen", "mean", "twin"]
    panel, made = run(tmp_path_factory.mktemp("dose"), PlantedGenerator(), control=controls)
    return panel, made, measure(made, alphas=ALPHAS)[0]


@pytest.fixture(scope="module")
def strong(dosed, tmp_path_factory):
    """Only doses that are seen, so that every arm differs from its baseline in what is measured."""
    panel, made, _ = dosed
    made = replace(made, folder=tmp_path_factory.mktemp("strong"))
    return panel, made, measure(made, alphas=(0, 0.8, 1))[0]


def test_at_no_dose_every_arm_is_its_baseline(strong):
    panel, made, store = strong
    moved = (store["pixels"].sel(dose=0.8) != store["pixels"].sel(dose=0)).any(["latent", "target", "object"])
    np.testing.assert_array_equal(moved, store["edit"])
    for name in ("pixels", "inside"):
        for arm in ("live", "capped:first", "capped:all", "frozen:first", "frozen:all"):
            np.testing.assert_array_equal(store[name].sel(dose=0, arm=arm), panel[name].sel(arm="reference"))
        for arm in ("mean:first", "mean:all", "twin:all"):
            np.testing.assert_array_equal(store[name].sel(dose=0, arm=arm), panel[name].sel(arm=f"{arm}/unedited"))
    # What is filled in is what would be measured.
    for name, counts in made._measure([variants.dose(made.design, [0.0])[0.0]], store, lambda images: None).items():
        np.testing.assert_array_equal(store[name].sel(dose=0), counts[0])


def test_the_whole_dose_is_the_study(dosed):
    panel, _, store = dosed
    assert store["pixels"].dims == ("dose", "latent", "target", "arm", "object")
    assert store["dose"].values.tolist() == list(ALPHAS)
    for name in ("pixels", "inside"):
        assert store[name].dtype == np.int32
        np.testing.assert_array_equal(store[name].sel(dose=1), panel[name])


def test_the_planted_mechanism_acts_from_a_dose_on(dosed):
    _, _, store = dosed
    # A = 3 (1 - alpha), B = W = 1 are divided by the root of their mean square. A is seen no longer, and B is instead, once A falls
    # below 0.8 / sqrt(3 - 0.8^2) sqrt(2) = 0.74: so it is at alpha = 0.8, where A is 0.6, and not yet at 0.5.
    shown = (latents(3, range(N), 1) > 0).float().mean().item()
    frames = [gandid.did(store.sel(dose=alpha)).to_frame() for alpha in ALPHAS]
    at = [
        f.set_index(["target", "object", "outcome", "control"]).loc[("a", "b", "inpainted", "frozen")] for f in frames
    ]
    assert [one["tau_held"].max() for one in at] == [0] * 5
    np.testing.assert_allclose([one["tau_live"].max() for one in at], [0, 0, 0, shown, shown])


def test_every_arm_of_the_sites_is_the_panel_of_its_held_set(tmp_path):
    panel, made = run(tmp_path / "run", Chain(3), hold=["all", "norms.0+norms.2"])
    (store,) = measure(made, sites=True)
    assert store["pixels"].dims == ("latent", "target", "arm", "object")
    assert store["site"].values.tolist() == ["norms.0", "norms.1", "norms.2"]  # without the one that cannot respond
    assert (store.attrs["orders"], store.attrs["orders_seed"]) == (0, 3)
    assert len(np.unique(store["pixels"].sel(target="a"), axis=1)[0]) > 2  # the sites do differ
    whole = "capped:norms.0+norms.1+norms.2"
    for mine, theirs in {
        whole: "capped:all",
        "capped:norms.0+norms.2": "capped:norms.0+norms.2",
        "live": "live",
    }.items():
        for name in ("pixels", "inside"):
            np.testing.assert_array_equal(store[name].sel(arm=mine), panel[name].sel(arm=theirs))
    frame = gandid.did(store).to_frame().set_index(["target", "object", "outcome", "control", "held"])
    theirs = gandid.did(panel).to_frame().set_index(["target", "object", "outcome", "control", "held"])
    for outcome in ("inpainted", "area"):
        one = frame.loc[("a", "b", outcome, "capped", whole.removeprefix("capped:"))]
        assert one["did"] == theirs.loc[("a", "b", outcome, "capped", "all"), "did"]


def test_many_sites_are_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "ORDERS", 2)
    _, made = run(tmp_path / "run", Chain(9), n=4)
    (store,) = measure(made, sites=True)
    assert (store.attrs["orders"], store.attrs["orders_seed"]) == (2, 3)
    assert store.sizes["arm"] == 1 + len(shapley.sampled_weights(9, 2, 3)[0])


def test_placebos_are_a_panel_for_each_draw(tmp_path):
    panel, made = run(tmp_path / "run", PlantedGenerator(), control=["frozen", "mean"], n=70)
    (store,) = measure(made, placebos=50)
    assert store["pixels"].dims == ("draw", "latent", "target", "arm", "object")
    assert store["latent"].values.tolist() == list(range(64))
    assert store["arm"].values.tolist() == ["reference", "live", "frozen:first", "frozen:all"]
    # Of three units there are two others. A has 9/2 of energy, W has 1, and B a little less than 1/2.
    assert store.sizes["draw"] == 2
    assert sorted(store["units"].sel(target="a").values.ravel()) == [1, 2]
    assert sorted(store["units"].sel(target="b").values.ravel()) == [0, 2]
    strength = (1 / (9 / 2)) ** np.where(store["units"].sel(target="a").values[:, 0] == 2, 1, 0)
    seen = store["units"].sel(target="a").values[:, 0] == 2
    np.testing.assert_allclose(store["energy"].sel(target="a").values[seen], strength[seen], rtol=1e-5)
    for draw in range(2):
        slice_ = store.isel(draw=draw)
        np.testing.assert_array_equal(
            slice_["pixels"].sel(arm="reference"), panel["pixels"].sel(arm="reference").isel(latent=slice(64))
        )
        removed = gandid.did(slice_).to_frame().set_index(["target", "outcome", "held"]).loc[("a", "removed", "all")]
        assert removed["tau_live"].max() == 0  # neither B nor W paints any of a


class Interrupted(PlantedSegmenter):
    """Is asked a number of times, and then no more."""

    def __init__(self, left: int = 10**9):
        self.left = left

    def __call__(self, images):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().__call__(images)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_cut_short_goes_on_and_is_the_same(tmp_path):
    asked = dict(alphas=ALPHAS, sites=True, placebos=2)
    _, whole = run(tmp_path / "whole", PlantedGenerator())
    _, broken = run(tmp_path / "broken", PlantedGenerator())
    for unbroken, variant in zip(whole.asked(**asked), broken.asked(**asked), strict=True):
        whole.segmenter = Interrupted()
        unbroken.write(lambda images: None)
        calls = 10**9 - whole.segmenter.left
        broken.segmenter = Interrupted(calls // 2)
        with pytest.raises(KeyboardInterrupt):
            variant.write(lambda images: None)
        assert list((broken.folder / variants.PARTS).glob("*.npz"))
        assert not broken.has(variant)
        broken.segmenter, told = Interrupted(), []
        variant.write(told.append)
        assert 10**9 - broken.segmenter.left < calls
        assert told[0] > 0 and sum(told) == variant.images
        assert files(broken.folder / variant.name) == files(whole.folder / variant.name)
    broken.clear()
    assert {path.name for path in broken.folder.iterdir()} == {variants.DOSE, variants.SITES, variants.PLACEBOS}


@pytest.mark.slow
def test_a_killed_run_goes_on_and_is_the_same(tmp_path):
    asked = dict(sites="shapley", dose=ALPHAS, placebos=2)
    killable.planted(tmp_path / "unbroken", **asked)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killable"])
    store = tmp_path / "killed"
    for _ in range(2):
        process = context.Process(target=killable.planted, args=(store,), kwargs={"slow": 0.03, **asked})
        process.start()
        before = set(store.glob(f"{variants.PARTS}/*.npz"))
        while not (store.is_dir() and set(store.glob(f"{variants.PARTS}/*.npz")) - before):
            assert process.is_alive()
            time.sleep(0.005)
        process.kill()
        process.join()
        assert not (store / variants.PLACEBOS).exists()
    killable.planted(store, **asked)
    for name in (variants.DOSE, variants.SITES, variants.PLACEBOS):
        assert files(store / name) == files(tmp_path / "unbroken" / name)
    assert not (store / variants.PARTS).exists()


def test_a_store_is_measured_again_where_more_is_asked_of_it(tmp_path):
    _, made = run(tmp_path / "run", PlantedGenerator(), n=20)
    measure(made, alphas=(0, 0.5, 1), placebos=1)
    assert [made.has(one) for one in made.asked(alphas=(1, 0, 0), sites=True, placebos=1)] == [True, False, True]
    assert [made.has(one) for one in made.asked(alphas=ALPHAS, placebos=2)] == [False, False]
    made.latents = 40
    assert [made.has(one) for one in made.asked(alphas=(0, 0.5, 1), placebos=1)] == [False, False]


class Lossy(Local):
    """Loses the second chunk, as a cluster may."""

    def map(self, make, chunks):
        for number, (chunk, measured) in enumerate(super().map(make, chunks)):
            yield chunk, Failed("the worker died") if number == 1 else measured


def test_latents_that_are_lost_are_told_and_measured_the_next_time(tmp_path):
    _, made = run(tmp_path / "run", PlantedGenerator(), executor=Lossy())
    (variant,) = made.asked(alphas=ALPHAS)
    with pytest.raises(GandidError, match="could not be measured: the worker died; the same call tries them again"):
        variant.write(lambda images: None)
    assert not made.has(variant)
    made.executor = Local()
    variant.write(lambda images: None)
    assert made.has(variant)


@pytest.mark.parametrize("alphas", [(0,), (-0.1, 1), (0, 1.5)])
def test_a_dose_is_a_share(tmp_path, alphas):
    _, made = run(tmp_path / "run", PlantedGenerator(), n=2)
    with pytest.raises(UsageError, match="choose some between 0 and 1, one of them above 0"):
        made.asked(alphas=alphas)
