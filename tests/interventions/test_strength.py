"""How far a site is held: the logarithm of its scale, and its mean, so much of the way from what it takes to the control."""

import pytest
import torch
from torch import Tensor, nn

from gandid.generators import Generator
from gandid.interventions import REFERENCE, Arm, Runner, Statistic, ablate, held_statistic, hold

UNITS = (1, 4, 5)


@pytest.fixture(scope="module")
def runner() -> Runner:
    torch.manual_seed(0)
    return Runner(Generator((12, 10, 8), latent_dim=6).eval(), "layer3")


@pytest.fixture(scope="module")
def z() -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("control", ["capped", "frozen"])
def test_the_ends_are_the_live_and_the_held_arm_to_the_last_bit(runner, z, control):
    edit, held = ablate(UNITS), hold(control, "all", runner.downstream)
    arms = [REFERENCE, Arm(edit), Arm(edit, held), Arm(edit, held, strength=0.0), Arm(edit, held, strength=1.0)]
    _, live, fully, none, one = runner.run(z, arms)
    assert torch.equal(none, live) and torch.equal(one, fully) and not torch.equal(live, fully)


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.8])
def test_between_the_first_sites_amplification_is_a_power_of_the_gain(runner, z, strength):
    """The live arm amplifies the survivors by the gain; with the strength s only by its power 1 - s."""
    network, first = runner.generator, runner.downstream[0]
    _, readings = runner.read(z, [REFERENCE, Arm(ablate(UNITS), {first: "frozen"}, strength)])
    gain = readings.gain(first, 1)
    torch.testing.assert_close(readings.taken[first][0][:, 0] / readings.held[first][1][:, 0], gain ** (1 - strength))
    r = network.prefix(z, "layer3")
    sigma = (r.square().mean(1, keepdim=True) + 1e-8).sqrt()
    r[:, list(UNITS)] = 0
    layer = network.layer4
    rest, layer.norm = layer.norm, nn.Identity()
    x = layer(r / sigma * gain[:, None] ** (1 - strength))
    layer.norm = rest
    images = runner.run(z, [REFERENCE, Arm(ablate(UNITS), {first: "frozen"}, strength)])
    torch.testing.assert_close(images[1], network.suffix(x, "layer4"), rtol=1e-4, atol=1e-5)


def test_the_mean_goes_straight():
    reference = Statistic(torch.tensor([[4.0]]), torch.tensor([[2.0]]))
    taken = Statistic(torch.tensor([[1.0]]), torch.tensor([[-2.0]]))
    half = held_statistic("frozen", reference, taken, strength=0.5)
    torch.testing.assert_close(half.scale, torch.tensor([[2.0]]))  # the geometric mean of 1 and 4
    torch.testing.assert_close(half.mean, torch.tensor([[0.0]]))
    capped = held_statistic("capped", reference, taken, strength=0.5)
    torch.testing.assert_close(capped.scale, torch.tensor([[2.0]]))
    assert torch.equal(capped.mean, taken.mean)  # which the cap leaves live
