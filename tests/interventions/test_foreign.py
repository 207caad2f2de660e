"""Generators of any signature: what is drawn with a latent, what is made of it, and what is assumed and told."""

from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gandid
from gandid.errors import UsageError
from gandid.interventions import REFERENCE, Arm, Runner, ablate, adapted, hold, read_inputs
from gandid.latents import latents
from gandid.runs import fingerprint
from gandid.segmenters import FunctionSegmenter

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE_LAYERS = {"dcgan": "main.3", "biggan": "blocks.0.second", "vae": "conv_in", "stylegan1": "blocks.1.conv"}
CLASSES = 5


class Plain(nn.Module):
    latent_dim = 6

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.spread, self.norm, self.colour = nn.ConvTranspose2d(6, 8, 4), nn.GroupNorm(2, 8), nn.Conv2d(8, 3, 1)
        self.grow = nn.Upsample(scale_factor=2)

    def body(self, x: Tensor) -> Tensor:
        return torch.tanh(self.colour(self.grow(self.norm(self.spread(x)))))

    def forward(self, z: Tensor) -> Tensor:
        return self.body(z[:, :, None, None])


class Classes(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 6)

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return super().forward(z + self.embed(label))


def seen(network: nn.Module, inputs: dict, n: int = 400) -> dict:
    """What `forward` is given beside latents."""
    network.inputs, given = inputs, {}
    own = network.forward
    network.forward = lambda z, label: given.update(z=z, label=label) or own(z, torch.zeros(len(z), dtype=int))
    generator = adapted(network)
    generator(latents(3, range(n), generator.latent_dim))
    return given


def test_a_class_is_drawn_uniformly_and_the_latent_is_the_one_without_it():
    given = seen(Classes(), {"label": range(2, 2 + CLASSES)})
    assert torch.equal(given["z"], latents(3, range(400), 6))
    counts = torch.bincount(given["label"], minlength=7)[2:]
    assert counts.sum() == 400 and (counts - 80).abs().max() < 4 * (400 * 0.2 * 0.8) ** 0.5
    few = seen(Classes(), {"label": range(2, 2 + CLASSES)}, n=7)["label"]
    assert torch.equal(few, given["label"][:7]) and few.dtype == torch.int64


def test_what_is_fixed_is_given_as_such_and_normal_numbers_are_the_latents_last():
    assert torch.equal(seen(Classes(), {"label": 3}, 4)["label"], torch.full((4,), 3))
    assert seen(Classes(), {"label": 0.7}, 4)["label"] == 0.7 and seen(Classes(), {"label": True}, 4)["label"] is True
    assert seen(Classes(), {"label": torch.ones(2, 3)}, 4)["label"].shape == (4, 2, 3)
    row = latents(3, range(4), 6 + 4 + 3)
    one, two = seen(Classes(), {"label": [(1, 2, 2), (3,)]}, 4)["label"]
    assert torch.equal(one.flatten(1), row[:, 6:10]) and torch.equal(two, row[:, 10:])


@pytest.mark.parametrize("kind", [range(CLASSES), 2])
def test_every_arm_has_the_class_of_its_latent(kind):
    network = Classes()
    network.inputs = {"label": kind}
    runner = Runner(network, "spread")
    z = latents(1, range(9), runner.generator.latent_dim)
    arms = [REFERENCE, Arm(ablate((0, 1))), Arm(ablate((0, 1)), hold("frozen", "all", runner.downstream))]
    images = runner.run(z, arms)
    torch.testing.assert_close(images[0], runner.generator(z))
    replayed = record_and_replay(network, z, (0, 1))
    torch.testing.assert_close(images[1:], replayed)
    assert (images[1] - images[2]).abs().max() > 0.01


def record_and_replay(network: Classes, z: Tensor, units: tuple[int, ...]) -> Tensor:
    """Live and frozen images of an ablation, of the network itself: statistics recorded in one pass and given in another."""
    label = network.inputs["label"]
    chosen = torch.full((len(z),), label) if isinstance(label, int) else (CLASSES * torch.special.ndtr(z[:, 6])).long()
    x = network.spread((z[:, :6] + network.embed(chosen))[:, :, None, None])
    edited = x.clone()
    edited[:, units] = 0
    variance, mean = torch.var_mean(x.unflatten(1, (2, -1)), (2, 3, 4), correction=0, keepdim=True)
    held = ((edited.unflatten(1, (2, -1)) - mean) / (variance + network.norm.eps).sqrt()).flatten(1, 2)
    weight, bias = network.norm.weight, network.norm.bias
    both = F.group_norm(edited, 2, weight, bias), held * weight[:, None, None] + bias[:, None, None]
    return torch.stack([torch.tanh(network.colour(network.grow(one))) for one in both]).detach()


def test_a_needed_class_of_which_nothing_is_said_is_drawn_and_told():
    with pytest.warns(UserWarning, match="embeds 5 classes: one of them is drawn for each latent, from 0 to 4"):
        generator = adapted(Classes())
    assert generator.latent_dim == 7 and generator.inputs == {"label": range(CLASSES)}
    told = Classes()
    told.inputs = {"label": range(CLASSES)}
    assert fingerprint(adapted(told)) == fingerprint(generator)
    assert fingerprint(adapted(told, {"label": 1})) != fingerprint(generator)

    class Timed(Classes):
        def forward(self, z, label, timestep):
            return super().forward(z, label)

    with pytest.raises(
        UsageError, match=r"takes label, timestep beside its latents: say what with its attribute inputs"
    ):
        adapted(Timed())
    with pytest.raises(UsageError, match=r"takes no input 'lable': beside the latents it takes label"):
        adapted(Classes(), {"lable": 2})


@pytest.mark.parametrize(("shape", "numbers"), [((6, 1, 1), 6), ([2, 3], 6), (np.int64(6), 6), (torch.Size([6]), 6)])
def test_latents_have_the_shape_that_is_said(shape, numbers):
    class Shaped(Plain):
        latent_dim = shape

        def forward(self, z):
            assert z.shape[1:] == ((6,) if isinstance(shape, np.int64) else tuple(shape))
            return super().forward(z.flatten(1))

    generator, z = adapted(Shaped()), latents(0, range(3), 6)
    assert generator.latent_dim == numbers and type(generator.latent_dim) is int
    assert torch.equal(generator(z), Plain()(z))


def test_a_network_that_is_wrapped_for_several_devices_is_itself():
    network, z = Plain(), torch.randn(2, 6)
    wrapped = nn.DataParallel(network.eval())
    assert torch.equal(adapted(wrapped)(z), network(z))
    study = gandid.Study(wrapped, FunctionSegmenter(thirds, "abc", "a"), "spread")
    assert (study.name, list(study.runner.downstream)) == ("Plain", ["norm"])


@pytest.mark.parametrize("wrong", [0, -3, 2.5, (), (4, 0), "6", None])
def test_latents_of_no_shape_are_refused(wrong):
    network = Plain()
    network.latent_dim = wrong
    with pytest.raises(UsageError, match="set its attribute latent_dim to their length or shape"):
        Runner(network, "spread")


def test_a_generator_may_draw_its_own_latents():
    class Uniform(Plain):
        latent_dim = None

        def sample(self, n, generator):
            return torch.rand(n, 6, generator=generator), torch.randint(CLASSES, (n,), generator=generator)

        def forward(self, z, label):
            return Plain.forward(self, z + label[:, None])

    runner = Runner(Uniform(), "spread")
    z = latents(0, range(64), runner.generator.latent_dim)
    torch.testing.assert_close(runner.generator(z)[[5, 60]], runner.generator(z[[5, 60]]))
    images = runner.run(z, [REFERENCE, Arm(ablate((0,)))])
    torch.testing.assert_close(images[0], runner.generator(z))
    assert len(images[0].flatten(1).unique(dim=0)) == 64  # each latent has a seed of its own


Named = namedtuple("Named", ["latent", "pictures"])


@dataclass
class Output:
    sample: Tensor
    loss: float = 0.0


@pytest.mark.parametrize(
    ("give", "key"),
    [
        (lambda x: {"sample": x}, None),
        (lambda x: {"sample": x, "small": x[..., ::2]}, None),
        (lambda x: {"a": x[..., ::2], "b": x}, "b"),
        (lambda x: (x, x[:, :, 0, 0]), None),
        (lambda x: [x[..., ::4], x[..., ::2], x], -1),
        (lambda x: [x[..., ::4], x, x[..., ::2]], 1),
        (lambda x: Output(x), None),
        (lambda x: Named(x[:, :2], x), None),
        (lambda x: Named(x, x[..., ::2]), "latent"),
    ],
)
def test_images_are_found_in_what_is_given(give, key):
    class Gives(Plain):
        output = key

        def forward(self, z):
            return give(super().forward(z))

    runner, z = Runner(Gives(), "spread"), latents(0, range(5), 6)
    assert torch.equal(runner.generator(z), Plain()(z))
    own = Runner(Plain(), "spread")
    arms = [REFERENCE, Arm(ablate((1, 2))), Arm(ablate((1, 2)), hold("capped", "all", own.downstream))]
    assert torch.equal(runner.run(z, arms), own.run(z, arms))


@pytest.mark.parametrize(
    ("give", "key", "line"),
    [
        (
            lambda x: (x, x[..., ::2]),
            None,
            r"gives 0 \(2, 3, 8, 8\), 1 \(2, 3, 8, 4\), with several that may be the images",
        ),
        (lambda x: {"a": x[:, :2]}, None, r"gives a \(2, 2, 8, 8\), with no images \(N, 3, H, W\) among it"),
        (lambda x: {"sample": x}, "image", "with no image among it"),
        (lambda x: [x], 3, "with no 3 among it"),
        (lambda x: {}, None, "gives nothing, with no images"),
        (lambda x: "image", None, "gives a str for 2 latents"),
    ],
)
def test_images_that_are_not_found_are_told(give, key, line):
    class Gives(Plain):
        output = key

        def forward(self, z):
            return give(super().forward(z))

    with pytest.raises(UsageError, match=line):
        Runner(Gives(), "spread")


def thirds(images: Tensor) -> Tensor:
    light = images.mean(1)
    return (light > -0.2).long() + (light > 0.2).long()


def panel_of(network: nn.Module):
    study = gandid.Study(network, FunctionSegmenter(thirds, "abc", "a"), layer="spread")
    assert study.runner.generator(study.latents(range(2))).dtype == torch.float32
    return study.run(["c"], units=2, control=["capped", "frozen"], hold="first", latents=16, ranking_latents=4)


@pytest.fixture(scope="module")
def plain():
    return panel_of(Plain())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_precision_give_the_same_study_up_to_rounding(plain, dtype):
    other = panel_of(Plain().to(dtype))
    assert plain["units"].equals(other["units"])
    changed = abs(plain["pixels"] - other["pixels"]).sum() / plain["pixels"].sum()
    assert changed < (1e-4 if dtype == torch.float64 else 1e-2)
    np.testing.assert_allclose(plain["strain"], other["strain"], atol=0.05)


def test_fingerprints_are_of_the_weights_bytes():
    of = [fingerprint(Plain().to(dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float8_e4m3fn)]
    assert len(set(of)) == 3
    changed = Plain().to(torch.bfloat16)
    with torch.no_grad():
        changed.colour.bias[0] += 0.01
    assert fingerprint(changed) not in of


def test_latents_are_in_the_type_of_the_first_weights_that_are_numbers():
    network = Plain().double()
    network.register_parameter("table", nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False))
    network._parameters = dict(reversed(network._parameters.items()))
    generator = adapted(network)
    assert generator.dtype == torch.float64 and generator(torch.zeros(2, 6)).dtype == torch.float32


def test_weights_that_do_not_compute_are_told():
    with pytest.raises(UsageError, match="8 bits do not compute everywhere, so give them another type"):
        Runner(Plain().to(torch.float8_e4m3fn), "spread")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_module_within_is_told_with_its_name():
    network = Plain()
    network.norm = torch.jit.script(network.norm)
    with pytest.raises(UsageError, match="'norm' in the generator is a TorchScript module"):
        Runner(network, "spread")


def test_inputs_are_read_as_they_are_written():
    read = read_inputs(["label=0..4", "other=-3", "truncation=0.7", "mode=fast"])
    assert read == {"label": range(5), "other": -3, "truncation": 0.7, "mode": "fast"} and type(read["other"]) is int
    for wrong in ("label", "label=", "=3", "a b=3", "label=4..0"):
        with pytest.raises(UsageError, match="--input"):
            read_inputs([wrong])
    with pytest.raises(UsageError, match="once for each name"):
        read_inputs(["label=1", "label=2"])


@pytest.mark.parametrize("name", EXAMPLE_LAYERS)
def test_the_examples_run_as_they_say(name):
    inputs = ["y=0..4"] if name == "biggan" else []
    generator = gandid.load_generator(f"{EXAMPLES / name}.py:make", inputs=inputs)
    study = gandid.Study(
        generator, gandid.load_segmenter(f"{EXAMPLES}/your_gan.py:colours"), layer=EXAMPLE_LAYERS[name]
    )
    panel = study.run({"bright": [0, 1, 2, 5]}, control=["capped", "frozen"], latents=8)
    removed = (
        gandid.did(panel).to_frame().query("outcome == 'removed' and contrast == 'did'").set_index(["control", "held"])
    )
    assert abs(removed["tau_live"].iloc[0]) > 0.05
    assert len(set(study.runner.responds.values())) == 1
    if name in ("dcgan", "biggan"):
        assert not any(study.runner.responds.values()) and (removed["did"] == 0).all()
    else:
        assert all(study.runner.responds.values()) and (removed["did"].xs("all", level="held") != 0).all()
    assert panel["baseline_gap"].max() < 1e-5  # convolutions of another batch size may round otherwise
