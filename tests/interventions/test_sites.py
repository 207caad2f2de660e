"""Every kind of normalization against PyTorch's own, alone and held inside of a network."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gandid.errors import UsageError
from gandid.interventions import (
    REFERENCE,
    Adapter,
    Arm,
    Runner,
    Statistic,
    ablate,
    find_sites,
    hold,
    pixel_norm,
    register_site,
)

pytestmark = pytest.mark.filterwarnings("ignore:the generator.s images range")  # random weights

CHANNELS = 6
UNITS = (0, 3)


class Hypersphere(nn.Module):
    """Pixel normalization under another name, written in another way."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class ChannelsLast(nn.Module):
    """A normalization of the last axis, which is given the channels."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


register_site(Hypersphere)

NORMS = {
    "pixel": Hypersphere,
    "instance": lambda: nn.InstanceNorm2d(CHANNELS),
    "instance, affine": lambda: nn.InstanceNorm2d(CHANNELS, affine=True),
    "group": lambda: nn.GroupNorm(3, CHANNELS, affine=False),
    "group, affine": lambda: nn.GroupNorm(2, CHANNELS),
    "layer": lambda: ChannelsLast(nn.LayerNorm(CHANNELS, elementwise_affine=False)),
    "layer, affine": lambda: nn.LayerNorm((CHANNELS, 4, 4)),
    "layer, no bias": lambda: ChannelsLast(nn.LayerNorm(CHANNELS, bias=False)),
    "rms": lambda: ChannelsLast(nn.RMSNorm(CHANNELS, elementwise_affine=False)),
    "rms, affine": lambda: nn.RMSNorm((CHANNELS, 4, 4), eps=1e-5),
}
STORED = {
    "batch": lambda: nn.BatchNorm2d(CHANNELS, affine=False),
    "batch, affine": lambda: nn.BatchNorm2d(CHANNELS),
    "instance, stored": lambda: nn.InstanceNorm2d(CHANNELS, affine=True, track_running_stats=True),
}


def made(make) -> nn.Module:
    """In evaluation mode, with weights and stored statistics that are not those of a new module."""
    norm = make().eval()
    generator = torch.Generator().manual_seed(3)
    for name, of in [*norm.named_parameters(), *norm.named_buffers()]:
        if of.is_floating_point():
            value = torch.randn(of.shape, generator=generator)
            of.data = value.abs() + 0.5 if name.endswith("var") else value
    return norm


class Network(nn.Module):
    """Latents to a map of units, a normalization, an activation, and a second of the same kind before the image."""

    latent_dim = 5

    def __init__(self, make):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.spread = nn.ConvTranspose2d(5, CHANNELS, 4)
        self.first = made(make)
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.second = made(make)
        self.colour = nn.Conv2d(CHANNELS, 3, 1)
        for module in (self.spread, self.conv, self.colour):
            for parameter in module.parameters():
                parameter.data = torch.randn(parameter.shape, generator=generator)

    def after(self, r: Tensor) -> Tensor:
        return self.colour(F.leaky_relu(self.second(self.conv(F.leaky_relu(self.first(r), 0.2))), 0.2))

    def forward(self, z: Tensor) -> Tensor:
        return self.after(self.spread(z[:, :, None, None]))


def latents(n: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))


def reference(x: Tensor, kind: str, norm: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Scale and mean by hand, each broadcastable to `x`."""
    if kind == "pixel":
        return (x.square().mean(1, keepdim=True) + 1e-8).sqrt(), None
    if kind in STORED:
        return (norm.running_var[:, None, None] + norm.eps).sqrt(), norm.running_mean[:, None, None]
    if "instance" in kind:
        return (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt(), x.mean((2, 3), keepdim=True)
    if "group" in kind:
        groups = [(g.var((1, 2, 3), correction=0) + 1e-5, g.mean((1, 2, 3))) for g in x.chunk(norm.num_groups, 1)]
        size = x.shape[1] // norm.num_groups
        scale, mean = (torch.stack([g[i] for g in groups], 1).repeat_interleave(size, 1) for i in (0, 1))
        return scale.sqrt()[:, :, None, None], mean[:, :, None, None]
    dims = tuple(range(-len(norm.normalized_shape), 0))
    if "rms" in kind:
        eps = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps
        return (x.square().mean(dims, keepdim=True) + eps).sqrt(), None
    return (x.var(dims, correction=0, keepdim=True) + 1e-5).sqrt(), x.mean(dims, keepdim=True)


@pytest.mark.parametrize("kind", [*NORMS, *STORED])
@settings(max_examples=10)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-5, 5))
def test_the_two_steps_are_the_normalization(kind, seed, size, shift):
    network = made((NORMS | STORED)[kind])
    (site,) = find_sites(network).values()
    shape = (3, 4, 4, CHANNELS) if isinstance(network, ChannelsLast) else (3, CHANNELS, 4, 4)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size + shift
    own, statistic = site.module(x), site.statistic(x)
    scale, mean = reference(x, kind, site.module)
    torch.testing.assert_close(statistic.scale, scale.expand_as(statistic.scale), rtol=1e-5, atol=1e-6)
    assert (statistic.mean is None) == (mean is None)
    if mean is not None:
        torch.testing.assert_close(statistic.mean, mean.expand_as(statistic.mean), rtol=1e-5, atol=1e-5 * size)
    # Rounding, of a difference of numbers of the size of |shift| / size.
    torch.testing.assert_close(site.apply(x, statistic), own, rtol=1e-4, atol=1e-5 * (1 + abs(shift) / size))
    assert site.responds == (kind not in STORED)
    assert torch.equal(site.check((x,), own).scale, statistic.scale)


@pytest.mark.parametrize("kind", [*NORMS, *STORED])
def test_live_arms_are_the_network_itself(kind):
    network, z = Network((NORMS | STORED)[kind]), latents()
    runner = Runner(network, "spread")
    edited = network.spread(z[:, :, None, None])
    edited[:, list(UNITS)] = 0
    expected = torch.stack([network(z), network.after(edited)])
    arms = [REFERENCE, Arm(ablate(UNITS))]
    read, _ = runner.read(z, arms)
    assert torch.equal(runner.run(z, arms), read)  # reading changes nothing
    torch.testing.assert_close(read, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("control", ["capped", "frozen"])
@pytest.mark.parametrize("kind", NORMS)
def test_held_arms_agree_with_recording_and_replaying(kind, control):
    """By hand: what the site took without the edit is given to it with the edit."""
    network, z = Network(NORMS[kind]), latents()
    runner = Runner(network, "spread")
    first = runner.downstream[0]
    norm = network.first.norm if isinstance(network.first, ChannelsLast) else network.first
    r = network.spread(z[:, :, None, None])
    edited = r.clone()
    edited[:, list(UNITS)] = 0
    turn = (0, 2, 3, 1) if isinstance(network.first, ChannelsLast) else (0, 1, 2, 3)
    back = (0, 3, 1, 2) if isinstance(network.first, ChannelsLast) else (0, 1, 2, 3)
    (old, old_mean), (new, new_mean) = (reference(x.permute(turn), kind, norm) for x in (r, edited))
    scale, mean = (old, old_mean) if control == "frozen" else (torch.maximum(old, new), new_mean)
    y = (edited.permute(turn) - (0 if mean is None else mean)) / scale
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    by_channel = isinstance(norm, nn.InstanceNorm2d | nn.GroupNorm)
    if weight is not None:
        y = y * (weight[:, None, None] if by_channel else weight)
    if bias is not None:
        y = y + (bias[:, None, None] if by_channel else bias)
    rest = network.colour(F.leaky_relu(network.second(network.conv(F.leaky_relu(y.permute(back), 0.2))), 0.2))

    arms = [REFERENCE, Arm(ablate(UNITS)), Arm(ablate(UNITS), {first: control}), Arm(None, {first: control})]
    images, readings = runner.read(z, arms)
    torch.testing.assert_close(images[2], rest, rtol=1e-4, atol=1e-4)
    assert torch.equal(images[3], images[0])  # without an edit a held site changes nothing, to the last bit
    # With it something, but where a whole unit is ablated and each has a scale of its own: no survivor is amplified, and a
    # constant unit, centered, is 0 whatever it is divided by.
    assert (images[2] - images[1]).abs().max() > 0.01 or ("instance" in kind and control == "capped")
    natural, held = readings.taken[first], readings.held[first]
    assert torch.equal(held[2], natural[0] if control == "frozen" else torch.maximum(natural[0], natural[2]))
    assert torch.equal(held[1], natural[1])


RUNNERS = {kind: Runner(Network(make), "spread") for kind, make in NORMS.items()}


@given(st.integers(0, 1000), st.sampled_from(sorted(NORMS)), st.floats(-3, 3))
def test_capped_never_amplifies(seed, kind, level):
    runner = RUNNERS[kind]
    z = latents(seed=seed)
    edit = ablate(UNITS, "mean", means=torch.full((CHANNELS,), level))
    _, readings = runner.read(z, [REFERENCE, Arm(edit, hold("capped", "all", runner.downstream))])
    for site in runner.downstream:
        assert (readings.held[site][1] >= readings.taken[site][0]).all()
        assert (readings.held[site][1] >= readings.taken[site][1]).all()


@pytest.mark.parametrize("kind", STORED)
def test_stored_statistics_cannot_respond(kind):
    network = Network(STORED[kind])
    runner = Runner(network, "spread")
    assert runner.responds == {"first": False, "second": False}
    edit = ablate(UNITS)
    arms = [REFERENCE, *(Arm(edit, hold(c, "all", runner.downstream)) for c in ("frozen", "capped")), Arm(edit)]
    images, readings = runner.read(latents(), arms)
    assert torch.equal(images[1], images[3]) and torch.equal(images[2], images[3])
    assert (images[3] - images[0]).abs().max() > 0.01
    assert torch.equal(readings.held["first"], readings.taken["first"])


def test_the_closed_form_holds_for_pixel_normalization_of_the_layer_alone():
    assert {kind for kind in NORMS if Runner(Network(NORMS[kind]), "spread").closed_form} == {"pixel"}
    upsampled = nn.Sequential(
        nn.ConvTranspose2d(5, 4, 4), nn.Upsample(scale_factor=2), Hypersphere(), nn.Conv2d(4, 3, 1)
    )
    runner = Runner(OnMaps(upsampled), "net.0")
    assert runner.downstream == ("net.2",) and not runner.closed_form
    _, readings = runner.read(latents(), [REFERENCE, Arm(ablate((1,)))])
    # The ratio of the scales, at the layer's own positions.
    expected = readings.layer.square().sum(1) / readings.layer[:, [0, 2, 3]].square().sum(1)
    torch.testing.assert_close(readings.gain("net.2", 1), expected.sqrt(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", NORMS)
def test_the_gain_has_the_layers_positions(kind):
    runner = Runner(Network(NORMS[kind]), "spread")
    _, readings = runner.read(latents(), [REFERENCE, Arm(), Arm(ablate(UNITS))])
    assert torch.equal(readings.gain(runner.downstream[0], 1), torch.ones(4, 4, 4))
    gain = readings.gain(runner.downstream[0], 2)
    assert gain.shape == (4, 4, 4) and gain.isfinite().all()
    assert (gain != 1).any() == (
        "instance" not in kind
    )  # where each unit has a scale of its own, no survivor is amplified


class OnMaps(nn.Module):
    """What a wrapper does for a network that takes latents (N, D, 1, 1)."""

    latent_dim = 5

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z[:, :, None, None])


class Skips(nn.Module):
    """Latents reach the image around the layer too: by a skip connection, and by a style per latent."""

    latent_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.ConvTranspose2d(5, CHANNELS, 4)
        self.layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm = nn.InstanceNorm2d(CHANNELS)
        self.style = nn.Linear(5, CHANNELS)
        self.colour = nn.Conv2d(CHANNELS, 3, 1)

    def parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.spread(z[:, :, None, None])
        return skip, self.layer(skip)

    def rest(self, z: Tensor, skip: Tensor, r: Tensor) -> Tensor:
        return self.colour(self.norm(r) * self.style(z)[:, :, None, None] + skip)

    def forward(self, z: Tensor) -> Tensor:
        return self.rest(z, *self.parts(z))


@pytest.mark.parametrize("arms", [2, 3])
def test_a_network_whose_latents_go_around_the_layer(arms):
    torch.manual_seed(0)
    network, z, donors = Skips(), latents(2), latents(2, seed=9)
    runner = Runner(network, "layer")
    skip, r = network.parts(z)
    edited = r.clone()
    edited[:, list(UNITS)] = network.parts(donors)[1][:, list(UNITS)]
    swap = ablate(UNITS, "resample")
    held = [Arm(swap, {"norm": "frozen"})] * (arms - 2)
    images, readings = runner.read(z, [REFERENCE, Arm(swap), *held], donors=donors)
    assert images.shape == (arms, 2, 3, 4, 4) and readings.taken["norm"].shape[:2] == (arms, 2)
    torch.testing.assert_close(images[0], network(z), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(images[1], network.rest(z, skip, edited), rtol=1e-5, atol=1e-6)
    if held:
        mean, scale = r.mean((2, 3), keepdim=True), (r.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        network.norm = nn.Identity()
        torch.testing.assert_close(images[2], network.rest(z, skip, (edited - mean) / scale), rtol=1e-4, atol=1e-5)


class Windows(nn.Module):
    """Normalizes tokens of windows that are folded into the rows, as window attention does."""

    latent_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.ConvTranspose2d(5, CHANNELS, 4)
        self.norm = nn.LayerNorm((4, CHANNELS))
        self.colour = nn.Conv2d(CHANNELS, 3, 1)

    def after(self, r: Tensor) -> Tensor:
        tokens = r.unflatten(2, (2, 2)).unflatten(4, (2, 2)).permute(0, 2, 4, 3, 5, 1)
        y = self.norm(tokens.reshape(-1, 4, CHANNELS)).view(tokens.shape)
        return self.colour(y.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3))

    def forward(self, z: Tensor) -> Tensor:
        return self.after(self.spread(z[:, :, None, None]))


def test_rows_may_hold_windows():
    torch.manual_seed(0)
    network, z = Windows(), latents(3)
    runner = Runner(network, "spread")
    arms = [REFERENCE, Arm(ablate(UNITS), {"norm": "frozen"}), Arm(ablate(UNITS)), Arm(None, {"norm": "frozen"})]
    images, readings = runner.read(z, arms)
    assert readings.taken["norm"].shape[:3] == (4, 3, 4)
    assert torch.equal(images[3], images[0])
    alone = torch.cat([runner.run(z[i : i + 1], arms[:2])[1] for i in range(3)])
    torch.testing.assert_close(images[1], alone, rtol=1e-5, atol=1e-5)


class Twice(nn.Module):
    """One module for two places."""

    latent_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.spread, self.norm, self.colour = nn.ConvTranspose2d(5, 4, 4), nn.GroupNorm(2, 4), nn.Conv2d(4, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        return self.colour(self.norm(F.relu(self.norm(self.spread(z[:, :, None, None])))))


class Noisy(Twice):
    def forward(self, z: Tensor) -> Tensor:
        return self.colour(self.norm(torch.relu(x := self.spread(z[:, :, None, None])) + torch.randn_like(x)))


class TokensFirst(Twice):
    """Its normalization is given (tokens, N, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, z: Tensor) -> Tensor:
        x = self.spread(z[:, :, None, None])
        return self.colour(self.norm(x.flatten(2).permute(2, 0, 1)).permute(1, 2, 0).view(x.shape))


class Halved(nn.GroupNorm):
    """Of a registered type, but something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class AbsoluteMean(nn.Module):
    """A normalization of the user's own kind, with a style beside its input."""

    def forward(self, x: Tensor, gain: float) -> Tensor:
        return gain * x / x.abs().mean(1, keepdim=True)


class Styled(Twice):
    def __init__(self) -> None:
        super().__init__()
        self.norm = AbsoluteMean()

    def forward(self, z: Tensor) -> Tensor:
        return self.colour(self.norm(self.spread(z[:, :, None, None]), 3.0))


def test_a_normalization_of_the_users_own_kind():
    torch.manual_seed(0)
    network, z = Styled(), latents()
    assert Runner(network, "spread").downstream == ()  # not known yet
    register_site(
        AbsoluteMean,
        Adapter(
            statistic=lambda module, x: Statistic(x.abs().mean(1, keepdim=True)),
            apply=lambda module, x, statistic, gain: gain * x / statistic.scale,
        ),
    )
    runner = Runner(network, "spread")
    r = network.spread(z[:, :, None, None])
    edited = r.clone()
    edited[:, 0] = 0
    images = runner.run(z, [REFERENCE, Arm(ablate((0,)), {"norm": "frozen"})])
    torch.testing.assert_close(images[1], network.colour(3 * edited / r.abs().mean(1, keepdim=True)))
    register_site(AbsoluteMean, pixel_norm())
    with pytest.raises(UsageError, match=r"site 'norm' \(AbsoluteMean\).*register its type with an adapter"):
        Runner(network, "spread")


def sequential(*modules: nn.Module) -> nn.Module:
    return OnMaps(nn.Sequential(nn.ConvTranspose2d(5, 4, 4), *modules, nn.Conv2d(4, 3, 1))).eval()


@pytest.mark.parametrize(
    ("generator", "layer", "line"),
    [
        (lambda: Twice(), "spread", "site 'norm' runs 2 times in one pass: give each place a module of its own"),
        (lambda: Noisy(), "spread", "other images of the same latents"),
        (lambda: TokensFirst(), "spread", "let the first axis be the latents'"),
        (lambda: sequential(Halved(2, 4)), "net.0", r"site 'net.1' \(Halved\) computes something else"),
        (
            lambda: sequential(nn.BatchNorm2d(4)).train(),
            "net.0",
            r"training mode \('net.1', BatchNorm2d\): call generator.eval",
        ),
        (lambda: sequential(nn.Dropout()).train(), "net.0", r"training mode \('net.1', Dropout\): call generator.eval"),
        (
            lambda: sequential(nn.BatchNorm2d(4, track_running_stats=False)),
            "net.0",
            "depends on the others of its batch",
        ),
        (
            lambda: sequential(),
            "net.9",
            r"unknown layer 'net.9': did you mean 'net.[0-9]'\? this generator has net, net.0, net.1",
        ),
        (lambda: sequential().net, "0", "set its attribute latent_dim to their length or shape"),
        (lambda: sequential(nn.Linear(9, 4)), "net.0", r"fails on 2 latents of 5 numbers \(RuntimeError: "),
        (lambda: sequential(nn.Conv2d(4, 4, 1), nn.Flatten(2)), "net.0", "docs/generators.md says"),
        (
            lambda: OnMaps(nn.ConvTranspose2d(5, 1, 4)),
            "net",
            r"gives images of shape \(2, 1, 4, 4\).*\(N, 3, height, width\)",
        ),
    ],
)
def test_what_cannot_be_an_experiment_is_refused_in_a_line(generator, layer, line):
    with pytest.raises(UsageError, match=line) as refused:
        Runner(generator(), layer)
    assert "\n" not in str(refused.value)


def test_only_a_type_can_be_registered():
    with pytest.raises(UsageError, match="by the type of its module"):
        register_site(Hypersphere())  # type: ignore[arg-type]
