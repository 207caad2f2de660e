"""The controls that have a baseline of their own: one constant per site, and a network without the normalization."""

import numpy as np
import pytest
import torch
from planted import SIZE, PlantedGenerator, PlantedSegmenter
from torch import nn

from gandid.errors import UsageError
from gandid.estimation import did
from gandid.generators.named import short_names
from gandid.interventions import REFERENCE, Arm, Runner, Statistic, held_statistic
from gandid.interventions.sites import average
from gandid.latents import latents
from gandid.measure.worker import CALIBRATED
from gandid.runs import open_panel
from gandid.study import Study

ALL = ["capped", "frozen", "mean", "twin"]


class Plain(PlantedGenerator):
    """The planted generator as it would be without its normalization."""

    def __init__(self, faint: float = 0.6):
        super().__init__(faint)
        self.norm = nn.Identity()


def study(faint=0.6, **how):
    return Study(PlantedGenerator(faint), PlantedSegmenter(), layer="paint", seed=3, **how)


def shown(n=40):
    return (latents(3, range(n), 1)[:, 0] > 0).numpy()


def rows(panel):
    return did(panel).to_frame().query("contrast == 'did'").set_index(["target", "object", "outcome", "arm"])


def test_the_constant_is_the_average_over_latents_and_positions():
    runner = Runner(PlantedGenerator(1.0), "paint")
    z = latents(3, range(CALIBRATED), 1, "calibration")
    runner.calibrate(z.split(7))
    with_b = (z > 0).double().mean().item()
    left = with_b * np.sqrt(11 / 3) + (1 - with_b) * np.sqrt(10 / 3)
    constant = (left + np.sqrt(1 / 3)) / 2
    images = runner.run(z[:5], [REFERENCE, Arm(None, {"norm": "mean"})])
    painted = PlantedGenerator(1.0).paint(z[:5])
    torch.testing.assert_close(images[1], painted / constant, rtol=1e-5, atol=0)
    assert (images[0] - images[1]).abs().max() > 0.1


def test_the_mean_control_needs_its_constants():
    runner = Runner(PlantedGenerator(), "paint")
    with pytest.raises(ValueError, match="calibrate"):
        runner.run(latents(0, range(2), 1), [REFERENCE, Arm(None, {"norm": "mean"})])


def test_a_constant_is_a_channels_own_where_the_statistic_is():
    scale = torch.arange(24.0).view(2, 3, 2, 2)
    one = average([Statistic(scale[:1], -scale[:1]), Statistic(scale[1:], -scale[1:])])
    torch.testing.assert_close(one.scale, scale.mean(dim=(0, 2, 3), keepdim=True))
    given = held_statistic("mean", one, Statistic(scale, scale), one)
    assert given.scale.shape == scale.shape
    torch.testing.assert_close(given.mean, -given.scale)
    tokens = torch.rand(2, 5, 1)
    torch.testing.assert_close(average([Statistic(tokens)]).scale, tokens.mean().view(1, 1, 1))


def test_the_twin_shows_what_normalization_made():
    """Live, the gain lifts B over the threshold where it is faint; nothing lifts it in the twin."""
    panel = study(twins={"plain": Plain()}).run({"a": [0]}, control=ALL, latents=40, ranking_latents=16)
    assert panel["arm"].values[panel["block"] == "study"].tolist()[-3:] == [
        "mean:first/unedited",
        "mean:all/unedited",
        "twin:all/unedited",
    ]
    found = rows(panel).loc[("a", "b", "inpainted", "twin:all")]
    assert (found.tau_live, found.tau_held) == (pytest.approx(shown().mean()), 0)
    assert found.control == "twin"
    # Its own A is seen and gone, so that nothing but B tells the two networks apart.
    removed = rows(panel).loc[("a", "a", "removed", "twin:all")]
    assert (removed.tau_live, removed.tau_held) == (1, 1)


def test_a_twin_is_ablated_on_its_own_units():
    """The twin keeps A in another channel: its units are found there, though the generator's are named."""
    swapped = Plain()
    swapped.paint, swapped.norm = Swapped(0.6), Swap()
    panel = study(twins={"swapped": swapped}).run({"a": [0]}, control="twin", latents=40, ranking_latents=16)
    assert panel["units"].sel(networks="all").values.tolist() == [[[1]]]
    assert rows(panel).loc[("a", "a", "removed", "twin:all")].tau_held == 1


class Swapped(nn.Module):
    """A's amplitude in channel 1 and B's in channel 0."""

    def __init__(self, faint):
        super().__init__()
        self.paint = PlantedGenerator(faint).paint

    def forward(self, z):
        return self.paint(z)[:, [1, 0, 2]]


class Swap(nn.Module):
    def forward(self, x):
        return x[:, [1, 0, 2]]


def test_each_arm_is_counted_on_its_own_baseline():
    """An arm's holes are the target's pixels in the arm's own unedited image."""
    panel = study(twins={"plain": Plain()}).run({"a": [0]}, control=ALL, latents=12, ranking_latents=8)
    inside, pixels = (panel[name].isel(segmenter=0).sel(target="a") for name in ("inside", "pixels"))
    for arm in ("mean:all", "twin:all"):
        unedited = f"{arm}/unedited"
        np.testing.assert_array_equal(inside.sel(arm=arm).sum("object"), pixels.sel(arm=unedited, object="a"))
        np.testing.assert_array_equal(inside.sel(arm=unedited, object="a"), pixels.sel(arm=unedited, object="a"))
    assert int(pixels.sel(arm="twin:all/unedited", object="a").max()) == SIZE * SIZE // 2


def test_baselines_that_differ_are_flagged():
    panel = study().run({"a": [0]}, control=["capped", "mean"], latents=12)
    checks = did(panel).checks.set_index(["check", "arm"])
    assert checks.loc[("baseline_gap", "capped:all"), "verdict"] == "ok"
    assert checks.loc[("baseline_gap", "mean:all"), "verdict"] == "flagged"


def test_several_twins_have_an_arm_each():
    twins = {"faint": Plain(0.6), "loud": Plain(0.9)}
    panel = study(twins=twins).run({"a": [0]}, control="twin", latents=40, ranking_latents=16)
    held = rows(panel)["tau_held"]
    assert held.loc[("a", "b", "inpainted", "twin:faint")] == 0
    assert held.loc[("a", "b", "inpainted", "twin:loud")] == pytest.approx(shown().mean())


@pytest.mark.slow
def test_a_run_with_controls_goes_on_as_if_unbroken(tmp_path):
    how = {"targets": {"a": [0]}, "control": ALL, "ranking_latents": 8}
    for latents_so_far in (8, 40):
        study(twins={"plain": Plain()}).run(**how, latents=latents_so_far, store=tmp_path / "grown")
    whole = study(twins={"plain": Plain()}).run(**how, latents=40, store=tmp_path / "whole")
    grown = open_panel(tmp_path / "grown")
    assert grown.drop_attrs().identical(whole.drop_attrs())
    with pytest.raises(UsageError, match="another study"):
        study(twins={"plain": Plain(0.7)}).run(**how, latents=40, store=tmp_path / "whole")


@pytest.mark.parametrize(
    ("twins", "line"),
    [
        ({}, "name it with --twin"),
        ({"odd": nn.Sequential()}, "the twin odd: unknown layer 'paint'"),
    ],
)
def test_what_is_no_twin_is_refused_in_a_line(twins, line):
    with pytest.raises(UsageError, match=line):
        study(twins=twins).run({"a": [0]}, control="twin", latents=4)


def test_a_twin_of_another_size_is_refused():
    class Large(Plain):
        def forward(self, z):
            return super().forward(z).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    with pytest.raises(UsageError, match="16 x 16 px, the generator of 8 x 8 px"):
        study(twins={"large": Large()})


def test_twins_are_called_by_what_tells_them_apart():
    files = ["runs/seed0-plain/generator.safetensors", "runs/seed1-plain/generator.safetensors"]
    assert short_names(files) == ["seed0-plain", "seed1-plain"]
    assert short_names(["a.safetensors", "b.safetensors"]) == ["a", "b"]
    assert short_names(["nets/a.safetensors", "rooms-twin"]) == ["nets/a", "rooms-twin"]
