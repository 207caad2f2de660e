"""Doses, coalitions of sites, placebos and a second segmenter: each is the same experiment, and the study's own where it should be."""

import numpy as np
import pytest
import torch
from planted import Paint, PlantedGenerator, PlantedSegmenter
from torch import nn

from gandid.errors import GandidError, UsageError
from gandid.estimation import did
from gandid.estimation.contents import Contents
from gandid.estimation.contrast import parts
from gandid.estimation.sums import gather
from gandid.generators.pggan import PixelNorm
from gandid.latents import latents
from gandid.measure.executors import Failed, Local
from gandid.panel import table
from gandid.study import Study

DOSES = (0.0, 0.25, 0.5, 0.8, 1.0)
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


def run(generator, n=N, segmenter=None, **options):
    twins = {"plain": Twin()} if "twin" in options.get("control", ()) else {}
    study = Study(generator, segmenter or PlantedSegmenter(), layer="paint", seed=3, twins=twins)
    return study.run(UNITS, units=1, latents=n, ranking_latents=12, **options)


def counts(panel, arm, name="pixels"):
    return panel[name].isel(segmenter=0, latent=slice(int(panel["measured"].sel(arm=arm)[0]))).sel(arm=arm).values


def assert_same(panel, arm, whole, name):
    """An arm is what it is as one of a study's own, but that no image is made where there is nothing to remove."""
    inside, pixels = counts(panel, arm, "inside"), counts(panel, arm, "pixels")
    np.testing.assert_array_equal(inside, counts(whole, name, "inside"))
    made = (pixels >= 0).all(axis=2)
    assert made.sum() > 0 and (inside[~made] == 0).all()
    np.testing.assert_array_equal(pixels[made], counts(whole, name, "pixels")[made])


@pytest.fixture(scope="module")
def dosed():
    return run(PlantedGenerator(), control=["capped", "frozen", "mean", "twin"], dose=DOSES)


class Shy(PlantedSegmenter):
    """Sees nothing but the first class in images that have some of unit B."""

    def __call__(self, images):
        return super().__call__(images) * (images[:, 1, :1, :1] <= 0)


def test_images_have_features_exactly_where_the_unedited_one_shows_the_target():
    panel = run(PlantedGenerator(), segmenter=Shy())
    known = np.isfinite(panel["features"]).all("feature")
    shown = (panel["pixels"].sel(target="a", arm="reference", object="a") > 0).values[0]
    assert 0 < shown.sum() < N
    for arm in ("live", "capped:first", "live@0.8", "capped:all@k0.5"):
        np.testing.assert_array_equal(known.sel(target="a", arm=arm), shown)
        assert not known.sel(target="b", arm=arm).any()  # which is seen in no unedited image


def test_every_dose_is_the_study_at_another_alpha(dosed):
    for dose in (0.25, 0.8):
        whole = run(PlantedGenerator(), control=["capped", "frozen", "mean", "twin"], alpha=dose)
        for arm in whole["arm"].values[whole["edit"].values & (whole["block"].values == "study")]:
            for name in ("pixels", "inside"):
                np.testing.assert_array_equal(counts(dosed, f"{arm}@{dose:g}", name), counts(whole, arm, name))
    assert not [name for name in dosed["arm"].values if name.endswith(("@0", "@1"))]  # none is measured twice


def test_the_planted_mechanism_acts_from_a_dose_on(dosed):
    # A = 3 (1 - alpha), B = W = 1 are divided by the root of their mean square. A is seen no longer, and B is instead, once A falls
    # below 0.8 / sqrt(3 - 0.8^2) sqrt(2) = 0.74: so it is at alpha = 0.8, where A is 0.6, and not yet at 0.5.
    shown = (latents(3, range(N), 1) > 0).float().mean().item()
    frame = did(dosed).frame.query("contrast == 'dose' and target == 'a' and object == 'b' and outcome == 'inpainted'")
    frozen = frame[frame["arm"].str.startswith("frozen:all")].sort_values("dose")
    np.testing.assert_allclose(frozen["dose"], DOSES)
    np.testing.assert_allclose(frozen["tau_held"], 0)
    np.testing.assert_allclose(frozen["tau_live"], [0, 0, 0, shown, shown])


def test_a_coalition_is_the_arm_that_holds_the_others():
    held = ["norms.0+norms.1", "norms.0+norms.2", "norms.1+norms.2", "norms.0", "norms.1", "norms.2"]
    panel = run(Chain(3), control="capped", hold=["all", "norms.0+norms.2"], sites="shapley")
    whole = run(Chain(3), control="capped", hold=["all", *held])
    assert (
        len(np.unique(panel["pixels"].sel(target="a").isel(segmenter=0).values, axis=1)[0]) > 2
    )  # the sites do differ
    assert sorted(panel["arm"].values) == sorted(whole["arm"].values)  # what the study has is not measured again
    assert panel["responds"].values.tolist() == [True, True, True, False]
    for sites in held:
        assert_same(panel, f"capped:{sites}", whole, f"capped:{sites}")
    frame = did(panel).frame
    share = frame.query("contrast == 'share' and target == 'a' and object == 'b' and outcome == 'inpainted'")
    effect = frame.query(
        "contrast == 'did' and target == 'a' and object == 'b' and outcome == 'inpainted' and arm == 'capped:all'"
    )
    assert share["did"].sum() == pytest.approx(effect["did"].item())


def test_many_sites_are_sampled():
    panel = run(Chain(9), n=4, control="capped", sites="shapley")
    assert (panel.attrs["orders"], panel.attrs["orders_seed"]) == (16, 3)
    coalitions, _ = table.sampled_weights(9, 16, 3)
    assert (panel["block"] == "sites").sum() == len(coalitions) - 2


def test_placebos_edit_other_units():
    panel = run(PlantedGenerator(), n=70, control=["frozen", "mean"], placebos=50)
    drawn = panel.isel(arm=panel["block"].values == "placebos")
    inside, pixels = (counts(panel, drawn["arm"].values[0], name) for name in ("inside", "pixels"))
    shown = counts(panel, "reference", "inside")[: len(inside)].any(axis=2)
    # Made of the images that show the target: on others there is nothing to remove, and whole images are asked of no such arm.
    np.testing.assert_array_equal((pixels >= 0).all(axis=2), shown)
    assert not inside[~shown].any() and 0 < shown.mean() < 1
    sums = gather(Contents(panel), [int(np.flatnonzero(panel["block"].values == "placebos")[0])])
    with pytest.raises(ValueError, match="takes whole images"):
        parts(Contents(panel), sums, 0, "area")
    # Of three units there are two others. A has 9/2 of energy, W has 1, and B a little less than 1/2.
    assert drawn["arm"].values.tolist() == [
        f"{arm}#{d}" for d in (1, 2) for arm in ("live", "frozen:first", "frozen:all")
    ]
    assert (drawn["latents"] == 64).all() and (drawn["inside"].isel(latent=slice(64)) >= 0).all()
    units = panel["units"].isel(networks=0, rank=0)
    assert sorted(units.sel(target="a").values[1:]) == [1, 2] and sorted(units.sel(target="b").values[1:]) == [0, 2]
    energy = panel["energy"].sel(target="a").values
    assert energy[0] == 1
    np.testing.assert_allclose(energy[units.sel(target="a").values == 2], 1 / (9 / 2), rtol=1e-5)
    for d in (1, 2):  # neither B nor W paints any of a
        inside = panel["inside"].isel(segmenter=0, latent=slice(64)).sel(target="a", object="a")
        np.testing.assert_array_equal(inside.sel(arm=f"live#{d}"), inside.sel(arm="reference"))


@pytest.mark.parametrize("ablation", ["mean", "resample"])
def test_placebos_are_ablated_as_the_targets_are(ablation):
    study = Study(PlantedGenerator(), PlantedSegmenter(), layer="paint", seed=3)
    panel = study.run({"a": [0]}, latents=8, control="capped", ablation=ablation, placebos=1, ranking_latents=70)
    unit = int(panel["units"].isel(networks=0, draws=1, rank=0)[0])
    other = study.run({"a": [unit]}, latents=8, control="capped", ablation=ablation, ranking_latents=70)
    np.testing.assert_array_equal(counts(panel, "capped:all#1"), counts(other, "capped:all"))
    np.testing.assert_array_equal(counts(panel, "live#1"), counts(other, "live"))


class Lossy(Local):
    """Loses the second task of the arms beside the study's own, as a cluster may."""

    def map(self, setting, tasks):
        for number, (task, rows) in enumerate(super().map(setting, tasks)):
            yield task, Failed("the worker died") if number == 1 and task.block else rows


def test_latents_that_are_lost_are_told_and_measured_the_next_time(tmp_path):
    with pytest.raises(GandidError, match="could not be measured: the worker died; the same call tries them again"):
        run(PlantedGenerator(), dose=(0, 0.5), store=tmp_path / "run", executor=Lossy())
    again = run(PlantedGenerator(), dose=(0, 0.5), store=tmp_path / "run")
    assert again.identical(run(PlantedGenerator(), dose=(0, 0.5)))


@pytest.mark.parametrize("dose", [(0,), (-0.1, 1), (0, 1.5)])
def test_a_dose_is_a_share(dose):
    with pytest.raises(UsageError, match="dose"):
        run(PlantedGenerator(), n=2, dose=dose)


FACTORY = """
import torch
from planted import PlantedSegmenter

class Renamed(PlantedSegmenter):
    '''Sees what the planted segmenter sees, and numbers it otherwise; it knows no class `b`, and calls it `c`.'''
    classes = ("a", "c", "wall")
    background = ("wall",)
    def __call__(self, images):
        return torch.tensor([2, 0, 1, 2])[super().__call__(images)]

class Elsewhere(PlantedSegmenter):
    classes = ("sea", "ship", "wave", "sky")
    background = ("sea",)
"""


@pytest.mark.parametrize("controls", [["capped", "frozen"], ["capped", "mean", "twin"]])
def test_a_second_segmenter_labels_the_same_images(tmp_path, controls):
    (tmp_path / "second.py").write_text(FACTORY)
    panel = run(PlantedGenerator(), control=controls, second_segmenter=f"{tmp_path}/second.py:Renamed")
    assert panel["object"].values.tolist() == ["wall", "a", "b", "never", "c"]
    panel = panel.isel(arm=panel["block"].values != "distance")
    assert (panel["measured"].values == N).all()
    for name in ("pixels", "inside"):
        first, second = panel[name].sel(target="a").values
        for own, its in ((1, 1), (2, 4), (0, 0)):
            np.testing.assert_array_equal(first[..., own], second[..., its])
        assert not second[..., 2:4].any() and not first[..., 4].any()  # of classes that they do not know
    difference = did(panel).frame.query("contrast == 'difference' and target == 'a'")
    assert len(difference) and (difference["did"] == 0).all()


def test_a_second_segmenter_must_know_a_target(tmp_path):
    (tmp_path / "second.py").write_text(FACTORY)
    with pytest.raises(UsageError, match="knows no a, b"):
        run(PlantedGenerator(), second_segmenter=f"{tmp_path}/second.py:Elsewhere")
