"""The one-batch runner against direct computations."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gandid.errors import GandidError, UsageError
from gandid.generators import Generator
from gandid.generators.pggan import PixelNorm
from gandid.interventions import REFERENCE, Arm, Runner, ablate, hold, insert

pytestmark = pytest.mark.filterwarnings("ignore:the generator.s images range")  # random weights

LAYER = "layer3"
UNITS = (1, 4, 5)


@pytest.fixture(scope="module")
def network() -> Generator:
    torch.manual_seed(0)
    return Generator((12, 10, 8), latent_dim=6).eval()


@pytest.fixture(scope="module")
def runner(network) -> Runner:
    return Runner(network, LAYER)


@pytest.fixture(scope="module")
def z() -> torch.Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_sites_before_and_after_the_layer(runner):
    assert runner.upstream == ("layer1.norm", "layer2.norm", "layer3.norm")
    assert runner.downstream == ("layer4.norm", "layer5.norm", "layer6.norm", "output.norm")
    assert (runner.units, runner.map_size) == (10, (8, 8))


def test_the_live_arm_is_the_edited_network(network, runner, z):
    r = network.prefix(z, LAYER)
    r[:, list(UNITS)] = 0
    images = runner.run(z, [REFERENCE, Arm(ablate(UNITS))])
    close(images[0], network(z))
    close(images[1], network.suffix(r, LAYER))


@pytest.mark.parametrize("control", ["capped", "frozen"])
@pytest.mark.parametrize("which", ["first", "all", ["layer5.norm", "output.norm"]])
def test_without_an_edit_holding_changes_nothing(runner, z, control, which):
    images = runner.run(z, [REFERENCE, Arm(None, hold(control, which, runner.downstream))])
    torch.testing.assert_close(images[1], images[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("control", ["capped", "frozen"])
@pytest.mark.parametrize("which", ["first", "all"])
def test_held_arms_agree_with_recording_and_replaying(network, runner, z, control, which):
    """The slow way: one pass that records every statistic, one that is told it."""
    recorded: dict[str, torch.Tensor] = {}
    held = hold(control, which, runner.downstream)
    for replaying in (False, True):
        x = network.prefix(z, LAYER)
        if replaying:
            x[:, list(UNITS)] = 0
        for name in (*network.layers[3:], "output"):
            layer = network.get_submodule(name)
            site = f"{name}.norm"
            sigma = (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
            if not replaying:
                recorded[site] = sigma
            elif held.get(site) == "frozen":
                sigma = recorded[site]
            elif held.get(site) == "capped":
                sigma = torch.maximum(sigma, recorded[site])
            rest = layer.norm
            layer.norm = nn.Identity()
            x = layer(x / sigma)
            layer.norm = rest
    images = runner.run(z, [REFERENCE, Arm(ablate(UNITS), held)])
    close(images[1], x)


def test_at_the_first_site_capped_and_frozen_agree(runner, z):
    arms = [REFERENCE, *(Arm(ablate(UNITS), hold(c, "first", runner.downstream)) for c in ("capped", "frozen"))]
    images = runner.run(z, arms)
    assert torch.equal(images[1], images[2])


def test_an_arm_does_not_depend_on_the_others(runner, z):
    held = Arm(ablate(UNITS), hold("capped", "all", runner.downstream))
    alone = runner.run(z, [REFERENCE, held])[1]
    crowded = runner.run(z, [REFERENCE, Arm(ablate((0,))), held, Arm(ablate((2, 3)))])[2]
    close(alone, crowded)


@pytest.mark.parametrize("kind", ["zero", "resample"])
def test_arms_that_share_an_edit_are_those_that_each_have_their_own(runner, z, kind):
    each = torch.rand(len(z), 8, 8, generator=torch.Generator().manual_seed(2))  # another region for each latent
    shared, donors = ablate(UNITS, kind, region=each), z.flip(0)
    held = [{}, hold("capped", "all", runner.downstream), hold("frozen", "first", runner.downstream)]
    together = runner.run(z, [REFERENCE, *(Arm(shared, sites) for sites in held)], donors=donors)
    for images, sites in zip(together[1:], held, strict=True):
        close(images, runner.run(z, [REFERENCE, Arm(ablate(UNITS, kind, region=each), sites)], donors=donors)[1])


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_one_pixel_that_is_no_number_is_found(z, broken):
    class Broken(Generator):
        whole = True

        def suffix(self, x, layer):
            images = super().suffix(x, layer)
            if not self.whole:
                images[1, 0, 2, 3] = broken
            return images

    torch.manual_seed(0)
    generator = Broken((12, 10, 8), latent_dim=6).eval()
    runner = Runner(generator, LAYER)
    generator.whole = False
    with pytest.raises(GandidError, match="for 1 of 5 latents"):
        runner.run(z, [REFERENCE, Arm(ablate(UNITS))])


@given(st.sets(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 1000))
def test_the_gain_is_its_closed_form(runner, units, seed):
    """gain(p) = (1 - e_U(p))^(-1/2): survivors are amplified where the ablated units carried the energy."""
    z = torch.randn(3, 6, generator=torch.Generator().manual_seed(seed))
    _, readings = runner.read(z, [REFERENCE, Arm(ablate(tuple(units)))])
    energy = readings.layer.double().square()
    share = energy[:, list(units)].sum(dim=1) / energy.sum(dim=1)
    gain = readings.gain("layer4.norm", 1).double()
    plain = share < 0.999  # where eps is negligible beside the survivors
    torch.testing.assert_close(gain[plain], (1 - share[plain]) ** -0.5, rtol=1e-3, atol=1e-4)
    assert (gain >= 1 - 1e-6).all()


def test_capped_never_amplifies_beyond_the_reference(runner, z):
    held = Arm(ablate(UNITS), hold("capped", "all", runner.downstream))
    _, readings = runner.read(z, [REFERENCE, held])
    for site in runner.downstream:
        given_, natural = readings.held[site], readings.taken[site]
        assert (given_[1] >= natural[0]).all() and (given_[1] >= natural[1]).all()
        assert torch.equal(given_[0], natural[0])


def test_holding_upstream_changes_nothing(runner, z):
    live, held = runner.placebo(z, Arm(ablate(UNITS)))
    assert torch.equal(live, held)
    close(live, runner.run(z, [REFERENCE, Arm(ablate(UNITS))])[1])


def test_partial_ablation_lies_between(network, runner, z):
    r = network.prefix(z, LAYER)
    r[:, list(UNITS)] *= 0.75
    images = runner.run(z, [REFERENCE, Arm(ablate(UNITS, alpha=0.25)), Arm(ablate(UNITS, alpha=0.0))])
    close(images[1], network.suffix(r, LAYER))
    assert torch.equal(images[2], images[0])


def test_mean_and_resample_ablation(network, runner, z):
    r = network.prefix(z, LAYER)
    means = r.mean(dim=(0, 2, 3))
    to_mean, swapped = r.clone(), r.clone()
    to_mean[:, list(UNITS)] = means[list(UNITS), None, None]
    donors = z.flip(0)
    swapped[:, list(UNITS)] = r.flip(0)[:, list(UNITS)]
    images = runner.run(
        z, [REFERENCE, Arm(ablate(UNITS, "mean", means=means)), Arm(ablate(UNITS, "resample"))], donors=donors
    )
    close(images[1], network.suffix(to_mean, LAYER))
    close(images[2], network.suffix(swapped, LAYER))


def test_insertion_in_a_region(network, runner, z):
    levels, region = torch.arange(10.0), torch.zeros(8, 8)
    region[2:5, 3:6] = 1
    r = network.prefix(z, LAYER)
    for unit in UNITS:
        r[:, unit, 2:5, 3:6] = levels[unit]
    images = runner.run(z, [REFERENCE, Arm(insert(UNITS, levels, region))])
    close(images[1], network.suffix(r, LAYER))


class InPlace(nn.Module):
    """The activation after the edited layer, and the one after the site, overwrite their input."""

    latent_dim, resolution = 4, 6

    def __init__(self, inplace: bool):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(4, 7, 6, padding=5)
        self.rest = nn.Sequential(nn.ReLU(inplace), PixelNorm(), nn.LeakyReLU(0.2, inplace), nn.Conv2d(7, 3, 1))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.rest(self.conv(z[:, :, None, None]))


def test_in_place_activations_do_not_overwrite_what_is_kept():
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))
    results = []
    for inplace in (False, True):
        runner = Runner(InPlace(inplace), "conv")
        held = Arm(ablate((0, 3)), hold("capped", "all", runner.downstream))
        images, readings = runner.read(z, [REFERENCE, Arm(ablate((0, 3))), held])
        results.append((images, readings.layer, readings.taken["rest.1"], readings.held["rest.1"]))
    for kept, overwritten in zip(*results, strict=True):
        torch.testing.assert_close(kept, overwritten)
    assert (results[1][1] < 0).any()  # the layer's output as it was, before the rectifier


def test_the_network_is_left_as_it_was(network, runner, z):
    before = network(z)
    runner.read(z, [REFERENCE, Arm(ablate(UNITS), hold("frozen", "all", runner.downstream))])
    assert torch.equal(network(z), before)
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(ValueError, match="reference arm"):
        runner.run(z, [Arm(ablate(UNITS))])


def test_what_cannot_be_edited_is_refused(network):
    for wrong in ("rooms", None, lambda z: z):
        with pytest.raises(UsageError, match=r"a generator is a torch.nn.Module, not .*load_generator"):
            Runner(wrong, LAYER)
    with pytest.raises(UsageError, match=r"unknown layer 'layer99': .*this generator has layer1, layer2"):
        Runner(network, "layer99")

    class Twice(InPlace):
        def forward(self, z):
            return self.rest(self.conv(z[:, :, None, None]) + self.conv(z[:, :, None, None]))

    with pytest.raises((UsageError, GandidError), match="choose"):
        Runner(Twice(False), "conv")


@pytest.mark.parametrize(("kind", "alpha"), [("knife", 1.0), ("zero", 1.5), ("zero", -0.1)])
def test_bad_edits_are_refused(kind, alpha):
    with pytest.raises(UsageError):
        ablate((0,), kind, alpha=alpha)
