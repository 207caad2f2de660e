"""Every public format of PG-GANs gives the network that its original code gives, in whatever file it comes."""

import importlib
import math
import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from gandid.cli import main
from gandid.errors import UsageError
from gandid.generators import Generator, load_generator
from gandid.generators.checkpoints.reading import Config
from gandid.generators.storage import save_generator

FIXTURES = Path(__file__).parents[1] / "fixtures"
FILES = sorted(path for path in FIXTURES.iterdir() if path.suffix in (".pth", ".pkl"))
TORCH = [path for path in FILES if path.suffix == ".pth"]


def images(network, z: Tensor) -> Tensor:
    with torch.no_grad():
        return network(z)


def same(a: Generator, b: Generator) -> bool:
    """The same network to the last bit."""
    z = torch.randn(2, a.latent_dim, generator=torch.Generator().manual_seed(0))
    return a.sites == b.sites and torch.equal(images(a, z), images(b, z))


def contents(path: Path):
    with torch.serialization.safe_globals([Config]):
        return torch.load(path, weights_only=True)


def saved(found, path: Path, **options) -> Path:
    torch.save(found, path, **options)
    return path


# Agreement


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_agrees_with_the_original_code(path):
    expected = np.load(path.with_suffix(".expected.npz"))
    network = load_generator(path)
    assert type(network) is Generator and network.resolution == 32
    np.testing.assert_allclose(images(network, torch.from_numpy(expected["z"])).numpy(), expected["image"], atol=1e-4)
    assert network.sites == tuple(f"{layer}.norm" for layer in (*network.layers, "output"))


def test_every_format_named_in_the_documentation_has_a_fixture():
    assert {path.stem for path in FILES} == {
        *("dissect_32px", "dissect_old_32px", "ganzoo_32px", "genforce_32px", "genforce_fused_32px", "karras_tf_32px")
    }


@pytest.mark.parametrize("equalized", [True, False])
@pytest.mark.parametrize("depth", [2, 4])
def test_agrees_with_pro_gan_pth(tmp_path, monkeypatch, equalized, depth):
    peer = pytest.importorskip("pro_gan_pytorch.networks")
    # Its last release calls a private function of PyTorch as it was then; what that returned is put in its place.
    deconvolution = importlib.import_module("pro_gan_pytorch.custom_layers").EqualizedConvTranspose2d
    monkeypatch.setattr(deconvolution, "_output_padding", lambda self, *_: self.output_padding)
    monkeypatch.setattr(peer, "nf", lambda stage: 24 if stage < 3 else 12)  # instead of 512, for speed
    torch.manual_seed(0)
    shadow, other = (peer.Generator(depth, latent_size=24, use_eql=equalized).eval() for _ in range(2))
    for parameter in shadow.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter)
    discriminator = peer.Discriminator(depth, latent_size=24)
    found = {
        "generator": other.get_save_info(),
        "discriminator": discriminator.get_save_info(),
        "shadow_generator": shadow.get_save_info(),
        "gen_optim": torch.optim.Adam(other.parameters()).state_dict(),
    }
    network = load_generator(saved(found, tmp_path / "depth_4_epoch_7.bin"))
    z = torch.randn(3, 24)
    torch.testing.assert_close(images(network, z), images(shadow, z), atol=1e-4, rtol=0)
    assert not torch.allclose(images(network, z), images(other, z), atol=1e-2)
    assert (network.resolution, network.latent_dim) == (2**depth, 24)
    # Its layers of 4 px have no normalization between them, so there is no such site.
    assert "layer2.norm" not in network.sites and "layer1.norm" in network.sites and "output.norm" in network.sites
    assert same(load_generator(save_generator(network, tmp_path / "converted.safetensors")), network)


def test_the_first_version_of_pro_gan_pth_did_not_normalize_its_latents(tmp_path):
    """Against its forward pass, written out: the package that pip installs today is another."""
    torch.manual_seed(0)
    state = {
        "initial_block.conv_1.weight": torch.randn(8, 8, 4, 4),  # transposed: (in, out, k, k)
        "initial_block.conv_1.bias": torch.randn(8),
        "initial_block.conv_2.weight": torch.randn(8, 8, 3, 3),
        "initial_block.conv_2.bias": torch.randn(8),
        "rgb_converters.0.weight": torch.randn(3, 8, 1, 1),
        "rgb_converters.0.bias": torch.randn(3),
    }
    z = torch.randn(3, 8)
    first, second, rgb = state.values(), [*state.values()][2:4], [*state.values()][4:]
    weight, bias, *_ = first
    x = F.leaky_relu(F.conv_transpose2d(z[:, :, None, None], weight * (2 / 8) ** 0.5, bias), 0.2)
    x = F.leaky_relu(F.conv2d(x, second[0] * (2 / 72) ** 0.5, second[1], padding=1), 0.2)
    x = x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()
    expected = F.conv2d(x, rgb[0] * (2 / 8) ** 0.5, rgb[1])
    network = load_generator(saved(state, tmp_path / "GAN_GEN_0.pth"))
    torch.testing.assert_close(images(network, z), expected, atol=1e-5, rtol=1e-4)
    assert network.sites == ("output.norm",)


# What the file is wrapped in makes no difference


def legacy(path: Path, target: Path) -> Path:
    return saved(contents(path), target, _use_new_zipfile_serialization=False)


def modern(path: Path, target: Path) -> Path:
    return saved(contents(path), target)


def from_cuda(path: Path, target: Path) -> Path:
    """Tag the storages as a file from a GPU does: the location is a text in the pickle, 'cpu' once and then memoized."""
    cpu, cuda = (b"X" + len(tag).to_bytes(4, "little") + tag for tag in (b"cpu", b"cuda:0"))
    data = legacy(path, target).read_bytes()
    assert data.count(cpu) == 1
    target.write_bytes(data.replace(cpu, cuda))
    return target


def from_cuda_modern(path: Path, target: Path) -> Path:
    cpu, cuda = (b"X" + len(tag).to_bytes(4, "little") + tag for tag in (b"cpu", b"cuda:0"))
    modern(path, target)
    with zipfile.ZipFile(target) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(cpu, cuda) if name.endswith("data.pkl") else data)
    return target


def renamed(found, rename):
    """The same with every weight's name changed."""
    if not isinstance(found, dict):
        return found
    tensors = all(isinstance(value, Tensor) for value in found.values())
    return OrderedDict((rename(k) if tensors else k, renamed(value, rename)) for k, value in found.items())


def data_parallel(path: Path, target: Path) -> Path:
    return saved(renamed(contents(path), lambda name: f"module.{name}"), target)


def parallel_inside(path: Path, target: Path) -> Path:
    def rename(name: str) -> str:
        first, dot, rest = name.partition(".")
        return f"{first}.module.{rest}" if dot else first

    return saved(renamed(contents(path), rename), target)


def training(path: Path, target: Path) -> Path:
    """With a discriminator, optimizers and a log around it."""
    found = contents(path)
    found = found if any(isinstance(value, dict) for value in found.values()) else {"G": found}
    parameters = [torch.nn.Parameter(torch.randn(3, 3))]
    optimizer = torch.optim.Adam(parameters)
    parameters[0].sum().backward()
    optimizer.step()
    extra = {
        "discriminator": {"input0.weight": torch.randn(4, 3, 1, 1), "layer0.conv": torch.randn(4, 4, 3, 3)},
        "optimizers": {"discriminator": optimizer.state_dict()},
        "epoch": 12,
        "losses": [0.5, 0.25],
        "done": None,
    }
    return saved({**extra, **found}, target, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "wrap", [legacy, modern, from_cuda, from_cuda_modern, data_parallel, parallel_inside, training]
)
@pytest.mark.parametrize("path", TORCH, ids=lambda path: path.stem)
def test_how_it_was_saved_makes_no_difference(tmp_path, path, wrap):
    assert same(load_generator(wrap(path, tmp_path / "weights")), load_generator(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_converted_it_is_the_same_network_and_the_same_file_each_time(tmp_path, path):
    network = load_generator(path)
    converted = save_generator(network, tmp_path / "a.safetensors")
    again = load_generator(converted)
    assert same(again, network)
    assert save_generator(again, tmp_path / "b.safetensors").read_bytes() == converted.read_bytes()


def test_the_format_is_told_by_content_not_by_name(tmp_path):
    for source, name in [
        ("karras_tf_32px.pkl", "a.pth"),
        ("dissect_32px.pth", "b.pkl"),
        ("genforce_32px.pth", "c.safetensors"),
    ]:
        (tmp_path / name).write_bytes((FIXTURES / source).read_bytes())
        assert same(load_generator(tmp_path / name), load_generator(FIXTURES / source))


def test_safetensors_with_the_names_of_another_project(tmp_path):
    weights = contents(FIXTURES / "genforce_fused_32px.pth")["generator_smooth"]
    save_file(weights, tmp_path / "weights.safetensors")
    assert same(load_generator(tmp_path / "weights.safetensors"), load_generator(FIXTURES / "genforce_fused_32px.pth"))


def test_flat_names_of_a_whole_training_state(tmp_path):
    weights = contents(FIXTURES / "dissect_32px.pth")
    flat = {"discriminator.input0.weight": torch.randn(3, 3)} | {f"module.g_ema.{k}": v for k, v in weights.items()}
    path = saved({"state_dict": flat}, tmp_path / "weights.ckpt")
    assert same(load_generator(path), load_generator(FIXTURES / "dissect_32px.pth"))


def test_our_own_weights_saved_by_pytorch(tmp_path):
    network = load_generator(FIXTURES / "dissect_32px.pth")
    assert same(load_generator(saved(network.state_dict(), tmp_path / "weights.pt")), network)


def test_half_precision_becomes_single(tmp_path):
    weights = {name: value.half() for name, value in contents(FIXTURES / "dissect_32px.pth").items()}
    network = load_generator(saved(weights, tmp_path / "half.pth"))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    z = torch.randn(2, 16)
    expected = images(load_generator(FIXTURES / "dissect_32px.pth"), z)
    torch.testing.assert_close(images(network, z), expected, atol=5e-3, rtol=0)


AVERAGES = [
    "g_ema",
    "ema_model",
    "EMA",
    "ema_state",
    "params_ema",
    "Gs",
    "g_running",
    "avg_model",
    "ema_generator",
    "avgG",
]
AVERAGES += ["generator_smooth", "shadow_generator", "netG_ema", "G_EMA", "generatorEMA"]


@pytest.mark.parametrize("average", AVERAGES)
def test_the_moving_average_is_preferred_by_its_name(tmp_path, average):
    weights = contents(FIXTURES / "dissect_32px.pth")
    noise = {name: torch.randn_like(value) for name, value in weights.items()}
    for found in (
        {"G": noise, average: weights, "epoch": 3},
        {average: weights, "generator": noise},
        {"state": {"model": noise, average: weights}},
        {
            f"{owner}.{name}": value
            for owner in ("net", average)
            for name, value in (noise, weights)[owner == average].items()
        },
    ):
        network = load_generator(saved(found, tmp_path / "several.pth"))
        assert same(network, load_generator(FIXTURES / "dissect_32px.pth"))
        assert network.source.split(".")[-1] == average


@pytest.mark.parametrize("name", ["schema", "remainder", "G", "generator", "demand"])
def test_names_that_say_nothing_of_an_average_ask(tmp_path, name):
    weights = contents(FIXTURES / "dissect_32px.pth")
    noise = {key: torch.randn_like(value) for key, value in weights.items()}
    path = saved({"first": noise, name: weights}, tmp_path / "two.pth")
    with pytest.raises(UsageError, match=rf"several generators \(first, {name}\): name one of them, as in FILE#first"):
        load_generator(path)
    assert same(load_generator(f"{path}#{name}"), load_generator(FIXTURES / "dissect_32px.pth"))
    with pytest.raises(UsageError, match=f"no network 'third': there are first, {name}"):
        load_generator(f"{path}#third")


def test_what_is_the_same_twice_or_incomplete_needs_no_question(tmp_path):
    weights = contents(FIXTURES / "dissect_32px.pth")
    part = {name: value for name, value in weights.items() if "output" not in name}
    found = {"a": weights, "b": dict(weights), "encoder": part}
    assert load_generator(saved(found, tmp_path / "same.pth")).source == "a"


def test_names_of_compiled_and_data_parallel_modules(tmp_path):
    weights = contents(FIXTURES / "dissect_32px.pth")
    for prefix in ("_orig_mod.", "module.", "module._orig_mod.", "g_ema._orig_mod."):
        found = {f"{prefix}{name}": value for name, value in weights.items()}
        assert same(load_generator(saved(found, tmp_path / "w.pth")), load_generator(FIXTURES / "dissect_32px.pth"))


# PyTorch GAN Zoo: what its configuration says


def zoo(tmp_path: Path, **config) -> Path:
    found = contents(FIXTURES / "ganzoo_32px.pth")
    found["config"].state.update(config)
    return saved({**found, "config": with_state(found["config"].state)}, tmp_path / "zoo.pth")


def with_state(state: dict):
    """An object that is pickled as GAN Zoo's configuration is."""
    config = Config.__new__(Config)
    config.__dict__.update(state)
    return config


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """What the originals pickle by name must be importable to *write* such a file (not to read it)."""
    for name in ("models", "models.utils", "models.utils.config", "tfutil"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["models.utils.config"].BaseConfig = Config
    sys.modules["tfutil"].Network = type("Network", (), {"__module__": "tfutil"})


def zoo_images(z: Tensor, weights: dict[str, Tensor], leak: float, stages: int = 4, equalized: bool = True) -> Tensor:
    """The forward pass of GAN Zoo's generator, written out."""

    def scaled(name: str, x: Tensor, operation, **options) -> Tensor:
        weight, bias = weights[f"{name}.module.weight"], weights[f"{name}.module.bias"]
        return operation(x, weight, bias, **options) * (math.sqrt(2 / weight[0].numel()) if equalized else 1)

    def norm(x: Tensor) -> Tensor:
        return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()

    x = F.leaky_relu(scaled("formatLayer", norm(z), F.linear), leak).view(len(z), -1, 4, 4)
    x = norm(F.leaky_relu(scaled("groupScale0.0", norm(x), F.conv2d, padding=1), leak))
    for stage in range(stages - 1):
        x = F.interpolate(x, scale_factor=2)
        for number in (0, 1):
            x = norm(F.leaky_relu(scaled(f"scaleLayers.{stage}.{number}", x, F.conv2d, padding=1), leak))
    return scaled(f"toRGBLayers.{stages - 1}", x, F.conv2d)


def test_gan_zoo_honours_its_configuration(tmp_path):
    weights = contents(FIXTURES / "ganzoo_32px.pth")["avgG"]
    z = torch.randn(3, 16)
    for config, options in [
        ({}, {"leak": 0.2}),
        ({"leakyReluLeak": 0.05}, {"leak": 0.05}),
        ({"alpha": 1}, {"leak": 0.2, "stages": 3}),
        ({"equalizedlR": False}, {"leak": 0.2, "equalized": False}),
    ]:
        network = load_generator(zoo(tmp_path, **config))
        expected = zoo_images(z, weights, **options)
        scale = expected.abs().max()
        torch.testing.assert_close(images(network, z) / scale, expected / scale, atol=1e-5, rtol=0)
    assert same(load_generator(save_generator(network, tmp_path / "converted.safetensors")), network)


def test_gan_zoo_without_normalization_has_no_sites(tmp_path):
    assert load_generator(zoo(tmp_path, perChannelNormalization=False)).sites == ()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"alpha": 0.25}, r"half-faded \(alpha 0.25\).* 16 and 32 px.* set alpha to 0 for 32 px or to 1 for 16 px"),
        ({"alpha": 2}, "alpha 2, which is out of range"),
        ({"depthScale0": 99}, "configuration that names other widths"),
        ({"depthOtherScales": [12, 12]}, "configuration that names other widths"),
        ({"categoryVectorDim": 10}, "class-conditional"),
        ({"lossMode": "DCGAN"}, "tanh"),
        ({"leakyReluLeak": float("nan")}, "slope that is no number from 0 to 1"),
    ],
)
def test_gan_zoo_refuses_what_its_configuration_makes_impossible(tmp_path, config, told):
    with pytest.raises(UsageError, match=told):
        load_generator(zoo(tmp_path, **config))


# GenForce: the level of detail


def test_a_level_of_detail_gives_the_network_of_that_resolution(tmp_path):
    for file in ("genforce_32px.pth", "genforce_fused_32px.pth"):
        found = contents(FIXTURES / file)
        weights = found.get("models", found)["generator_smooth"]
        full = load_generator(FIXTURES / file)
        coarse = load_generator(saved({**weights, "lod": torch.tensor(1.0)}, tmp_path / "coarse.pth"))
        assert coarse.resolution == 16 and coarse.channels == full.channels[:3]
        z = torch.randn(2, 16)
        features = full.prefix(z, "layer6")
        features = features / (features.square().mean(1, keepdim=True) + 1e-8).sqrt()
        rgb = weights["output2.weight"] / math.sqrt(weights["output2.weight"].shape[1])
        expected = F.conv2d(features, rgb, weights["output2.bias"])
        torch.testing.assert_close(images(coarse, z), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("lod", "told"),
    [
        (
            0.5,
            r"half-faded \(lod 0.5\).* 16 and 32 px, which are two networks; set lod to 0 for 32 px or to 1 for 16 px",
        ),
        (1.25, r"8 and 16 px"),
        (7.0, "out of range"),
        (float("nan"), "out of range"),
    ],
)
def test_a_half_faded_network_is_refused_in_words(tmp_path, lod, told):
    weights = contents(FIXTURES / "genforce_32px.pth")["models"]["generator_smooth"]
    with pytest.raises(UsageError, match=told):
        load_generator(saved({**weights, "lod": torch.tensor(lod)}, tmp_path / "faded.pth"))


# Karras et al.


def karras(path: Path, protocol: int = 4, old_numpy: bool = False, variables: dict | None = None, **state) -> Path:
    """Write G, D and Gs as the original does, G and D of noise."""
    network = sys.modules["tfutil"].Network

    def pickled(name: str, variables: dict) -> object:
        one = network()
        built = {
            "version": 2,
            "name": name,
            "build_module_src": "raise SystemExit('executed')",
            "build_func_name": "G_paper",
        }
        one.__dict__.update({**built, "static_kwargs": {}, **state, "variables": list(variables.items())})
        return one

    variables = variables if variables is not None else tensorflow_variables()
    noise = {name: np.random.default_rng(0).normal(size=value.shape).astype("f4") for name, value in variables.items()}
    data = pickle.dumps(
        (pickled("G", noise), pickled("D", {"FromRGB_lod0/weight": np.ones((1, 1, 3, 8))}), pickled("Gs", variables)),
        protocol,
    )
    if old_numpy:
        assert b"numpy._core.multiarray" in data
        data = data.replace(b"numpy._core", b"numpy.core")
    path.write_bytes(data)
    return path


def tensorflow_variables(fused: bool = True) -> dict[str, np.ndarray]:
    """The weights of the dissect fixture under TensorFlow's names and in its order of axes."""
    weights = {name: value.numpy() for name, value in contents(FIXTURES / "dissect_32px.pth").items()}
    variables = {"lod": np.float32(0)}
    for number in range(1, 9):
        size = 4 * 2 ** ((number - 1) // 2)
        kind = {1: "Dense", 2: "Conv"}.get(number, "Conv1" if number % 2 == 0 else "Conv0_up" if fused else "Conv0")
        weight = weights[f"layer{number}.conv.weight"]
        if number == 1:
            weight = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3).reshape(weight.shape[1], -1)
        elif kind == "Conv0_up":
            weight = weight[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
        else:
            weight = weight.transpose(2, 3, 1, 0)
        variables[f"{size}x{size}/{kind}/weight"] = weight
        variables[f"{size}x{size}/{kind}/bias"] = weights[f"layer{number}.wscale.b"]
    variables["ToRGB_lod0/weight"] = weights["output_32x32.conv.weight"].transpose(2, 3, 1, 0)
    variables["ToRGB_lod0/bias"] = weights["output_32x32.wscale.b"]
    return variables


@pytest.mark.parametrize(("protocol", "old"), [(2, True), (3, True), (2, False), (3, False), (4, False), (5, False)])
@pytest.mark.parametrize("fused", [True, False])
def test_tensorflow_pickles_of_every_age(tmp_path, protocol, old, fused):
    """The arrays are contiguous or not, in C or Fortran order, and NumPy's modules have the old or the new names."""
    path = karras(tmp_path / "karras.pkl", protocol, old, tensorflow_variables(fused))
    assert same(load_generator(path), load_generator(FIXTURES / "dissect_32px.pth"))


def test_tensorflow_settings(tmp_path):
    plain = load_generator(karras(tmp_path / "plain.pkl"))
    z = torch.randn(2, 16)
    relu = load_generator(karras(tmp_path / "k.pkl", static_kwargs={"use_leakyrelu": False, "pixelnorm_epsilon": 1e-3}))
    assert relu.slope == 0 and relu.eps == 1e-3 and relu.prefix(z, "layer3").min() == 0
    bare = load_generator(karras(tmp_path / "k.pkl", static_kwargs={"use_pixelnorm": False}))
    assert bare.sites == ("layer1.norm",)
    bare = load_generator(karras(tmp_path / "k.pkl", static_kwargs={"normalize_latents": False}))
    assert bare.sites == plain.sites[1:]
    z = z / z.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(images(bare, z), images(plain, z), atol=1e-5, rtol=1e-4)

    variables = tensorflow_variables()
    for name, value in variables.items():
        if name.endswith("weight"):
            layer = "output" if name.startswith("ToRGB") else name
            inputs = value.shape[3] if "Conv0_up" in name else value.shape[-2]
            gain = {"output": 1, "4x4/Dense/weight": math.sqrt(2) / 4}.get(layer, math.sqrt(2))
            variables[name] = value * np.float32(
                gain / math.sqrt(inputs * (1 if value.ndim == 2 else value.shape[0] ** 2))
            )
    unscaled = load_generator(karras(tmp_path / "k.pkl", variables=variables, static_kwargs={"use_wscale": False}))
    torch.testing.assert_close(images(unscaled, z), images(plain, z), atol=1e-5, rtol=1e-4)


def test_other_networks_of_that_code_are_refused(tmp_path):
    for state, told in [
        ({"build_func_name": "G_style"}, "'G_style' builds, which is no PG-GAN's G_paper"),
        ({"static_kwargs": {"label_size": 10}}, "class-conditional"),
    ]:
        with pytest.raises(UsageError, match=told):
            load_generator(karras(tmp_path / "k.pkl", **state))


def test_a_level_of_detail_in_tensorflow(tmp_path):
    variables = tensorflow_variables() | {"lod": np.float32(0.5)}
    with pytest.raises(UsageError, match="half-faded"):
        load_generator(karras(tmp_path / "k.pkl", variables=variables))
    variables |= {
        "lod": np.float32(1),
        "ToRGB_lod1/weight": np.ones((1, 1, 12, 3), "f4"),
        "ToRGB_lod1/bias": np.zeros(3, "f4"),
    }
    assert load_generator(karras(tmp_path / "k.pkl", variables=variables)).resolution == 16


# The command


def test_convert(tmp_path, monkeypatch, capsys):
    source = str(FIXTURES / "ganzoo_32px.pth")
    command = [sys.executable, "-c", "from gandid.cli import main; main()", "convert", source, "zoo.safetensors"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"zoo.safetensors", "(32", "16)"} <= set(done.stdout.split())
    assert same(load_generator(tmp_path / "zoo.safetensors"), load_generator(source))

    before = (tmp_path / "zoo.safetensors").read_bytes()
    monkeypatch.chdir(tmp_path)
    for arguments, told in [
        ((source, "zoo.safetensors"), "zoo.safetensors exists: choose another name, or remove it"),
        ((source, "zoo.pth"), "zoo.pth"),
        (("absent.pth", "new.safetensors"), "unknown generator 'absent.pth'"),
        ((__file__, "new.safetensors"), "is not a checkpoint: neither PyTorch's, nor safetensors, nor"),
    ]:
        monkeypatch.setattr(sys, "argv", ["gandid", "convert", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        refused = capsys.readouterr().err
        assert exit.value.code == 2 and told in refused and len(refused.splitlines()) == 1
    assert (tmp_path / "zoo.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.safetensors"]
