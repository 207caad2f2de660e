"""A study finds the planted effect exactly, and none in the twin without the mechanism."""

import numpy as np
import pytest
import torch
from planted import PlantedGenerator, PlantedSegmenter

from gandid.errors import UsageError
from gandid.estimation import did
from gandid.generators import load_generator
from gandid.latents import latents
from gandid.measure.worker import arithmetic
from gandid.segmenters import load_segmenter
from gandid.study import Study

TARGETS = {"a": [0]}


def effects_of(faint: float, n: int = 40):
    study = Study(PlantedGenerator(faint), PlantedSegmenter(), layer="paint", seed=3)
    panel = study.run(TARGETS, control=["capped", "frozen"], hold=["first", "all"], latents=n)
    frame = (
        did(panel).to_frame().query("contrast == 'did'").set_index(["target", "object", "outcome", "control", "held"])
    )
    return panel, frame


@pytest.mark.parametrize("control", ["capped", "frozen"])
@pytest.mark.parametrize("held", ["first", "all"])
def test_the_planted_did_is_found(control, held):
    _, frame = effects_of(faint=1.0)
    share = (latents(3, range(40), 1) > 0).float().mean().item()
    assert 0.2 < share < 0.8
    row = frame.loc[("a", "b", "inpainted", control, held)]
    assert row.tau_live == pytest.approx(share)
    assert row.tau_held == 0
    assert row.did == pytest.approx(share)
    # Per latent the in-painted share is 0 or 1: the binomial error, with the n - 1 of a sample.
    assert row.se == pytest.approx(np.sqrt(share * (1 - share) / 39), rel=1e-6)
    # The target is gone either way.
    removed = frame.loc[("a", "a", "removed", control, held)]
    assert (removed.tau_live, removed.tau_held, removed.did) == (1, 1, 0)
    emerged = frame.loc[("a", "b", "emerged", control, held)]
    assert emerged.did == pytest.approx(share)
    # Half of the image is at stake.
    assert frame.loc[("a", "b", "area", control, held)].did == pytest.approx(share / 2)


def test_without_the_mechanism_there_is_no_effect():
    _, frame = effects_of(faint=0.05)
    assert (frame["did"].dropna() == 0).all()
    assert (frame["p"].dropna() == 1).all()


def test_the_gain_is_the_closed_form():
    panel, _ = effects_of(faint=1.0)
    z = latents(3, range(40), 1)[:, 0].numpy()
    expected = np.where(z > 0, np.sqrt((9 + 1 + 1) / 2), np.sqrt(9 + 1))
    np.testing.assert_allclose(panel["gain"].sel(target="a"), expected, rtol=1e-6)
    np.testing.assert_allclose(panel["gain_outside"].sel(target="a"), 1, rtol=1e-6)
    assert panel["gain_error"].max() < 1e-6
    checks = did(panel).checks
    assert (checks.loc[checks.check.isin(["gain", "baseline_gap"]), "verdict"] == "ok").all()


def test_units_are_ranked_by_their_effect():
    study = Study(PlantedGenerator(), PlantedSegmenter(), layer="paint")
    relation = study.relate(latents=16)
    ace = relation["ace"].sel(object="a").values
    np.testing.assert_allclose(ace, [0.5, 0, 0])  # A paints half of the image; nobody else paints any of `a`
    assert relation["ace"].sel(object="b").values[0] < 0  # with A gone, B appears
    energy = relation["energy"].sel(object="a").values
    np.testing.assert_allclose(energy, [1, 1, 0.5])
    assert relation["iou"].sel(object="a").values[0] > 0.9


class Unsure(PlantedSegmenter):
    """Gives three quarters of the probability to its label, and the rest to the wall."""

    def probabilities(self, images):
        named = torch.nn.functional.one_hot(self(images), len(self.classes)).movedim(-1, 1).float()
        return 0.75 * named + 0.25 * torch.eye(len(self.classes))[0][:, None, None]


def test_soft_counts_are_sums_of_probabilities():
    """Every effect on an object is three quarters of what labels say, and what a pixel was before the edit does not count as removed."""
    hard, soft = (
        Study(PlantedGenerator(1.0), Unsure(), layer="paint", seed=3).run(
            TARGETS, control=["capped", "mean"], hold="first", latents=30, soft=soft, region=(0, 0, 1, 0.5)
        )
        for soft in (False, True)
    )
    assert soft.attrs["image_pixels"] == 256 * hard.attrs["image_pixels"] and soft.attrs["soft"] == 256
    for name in ("pixels", "inside"):
        whole = hard[name].sum("object")
        expected = 192 * hard[name] + 64 * whole * (hard["object"] == "wall")
        np.testing.assert_array_equal(soft[name].transpose(*expected.dims), expected)
    one, other = (did(panel).main.query("kind in ['target', 'object', 'together']") for panel in (hard, soft))
    means = one["outcome"] != "emerged"
    for name in ("tau_live", "tau_held", "did", "se"):
        np.testing.assert_allclose(other.loc[means, name], 0.75 * one.loc[means, name], atol=1e-9)
    assert one["did"].abs().max() > 0.2
    with pytest.raises(UsageError, match="no probabilities"):
        Study(PlantedGenerator(), PlantedSegmenter(), layer="paint").run(TARGETS, latents=2, soft=True)


def test_soft_counts_are_whole_whatever_the_networks_round():
    study = Study(load_generator("rooms"), load_segmenter("rooms"), dtype="bf16")
    panel = study.run({"rug": [1, 2]}, control="capped", hold="first", latents=2, soft=True)
    with arithmetic(study.device, "bf16"), torch.inference_mode():
        given = study.segmenter.probabilities(study.generator(study.latents(range(2)))).double().sum(dim=(2, 3))
    found = panel["pixels"].isel(segmenter=0, target=0).sel(arm="reference") / 256
    np.testing.assert_allclose(found.transpose("latent", "object"), given, atol=0.5)
