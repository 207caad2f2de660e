"""From named weights to the network: what each project calls its layers, and how it scales them.

Published PG-GANs are one network up to bookkeeping. All of it is undone here, so that one class results: where the
weights are scaled (the equalized learning rate), whether the bias is too, transposed convolutions, dense layers, and
the place of a normalization (after a layer's activation, or before the next layer). What really differs, such as a
normalization that one project leaves out, becomes a setting of the `Generator`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gandid.errors import UsageError
from gandid.generators.checkpoints.inert import Settings, short


class StoredLayer(NamedTuple):
    """Weight (out, in, k, k) before scaling by the equalized learning rate, and bias; the name is the file's."""

    name: str
    weight: Tensor
    bias: Tensor

    def unscaled(self, gain: float = math.sqrt(2)) -> StoredLayer:
        """The same where the file's weights are used as they are, with no equalized learning rate."""
        return self._replace(weight=self.weight * math.sqrt(self.weight[0].numel()) / gain)


@dataclass
class StoredNetwork:
    """All that makes a generator."""

    layers: list[StoredLayer]
    output: StoredLayer
    settings: dict[str, Any] = field(default_factory=dict)  # of `Generator`


@dataclass
class Weights:
    """The named tensors of one network."""

    named: Mapping[str, Tensor]
    where: str = ""  # they are in the checkpoint

    def layer(self, name: str, bias: str = "bias", weight: str = "weight", dimensions: int = 4) -> StoredLayer:
        """One layer's."""
        return StoredLayer(name, self._take(f"{name}.{weight}", dimensions), self._take(f"{name}.{bias}", 1))

    def last(self, pattern: str) -> int:
        """The largest number that a pattern finds in names; -1 if there is none."""
        return max((int(match[1]) for name in self.named if (match := re.match(pattern, name))), default=-1)

    def _take(self, name: str, dimensions: int) -> Tensor:
        value = self.named.get(name)
        if value is None:
            raise UsageError(f"has no '{name}': it is incomplete, or its weights were renamed")
        if value.layout != torch.strided or value.device.type != "cpu" or not value.is_floating_point():
            raise UsageError(f"holds '{name}' as {value.dtype} ({value.layout}), not as floating-point numbers")
        if value.ndim != dimensions or not value.numel():
            raise UsageError(f"holds '{name}' of shape {tuple(value.shape)}, not of {dimensions} dimensions")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UsageError(f"holds '{name}' of more numbers than it stores")
        value = value.detach().to(torch.float32, copy=True).contiguous()
        if not value.isfinite().all():
            raise UsageError(f"holds weights that are not numbers (NaN or infinite), in '{name}'")
        return value


def _grown(stages: int, level: float, called: str, most: float = math.inf) -> int:
    """How many of the stages make the image, where `level` counts how many are not yet grown; whole numbers only."""
    if not 0 <= level <= min(stages - 1, most):
        raise UsageError(f"has {called} {level:g}, which is out of range")
    if level != int(level):
        fine, coarse = (4 * 2 ** (stages - 1 - int(level) - back) for back in (0, 1))
        raise UsageError(
            f"is half-faded ({called} {level:g}): its images blend outputs of {coarse} and {fine} px, which are two "
            f"networks; set {called} to {int(level)} for {fine} px or to {int(level) + 1} for {coarse} px"
        )
    return stages - int(level)


# The formats. In each the layers come in pairs, of which every first one but the first doubles the resolution.


def read_dissect(weights: Weights, about: Mapping[str, Any]) -> StoredNetwork:
    """GAN Dissection, its older naming, InterFaceGAN, and gandid's own names: the same scaling as here."""
    old = any(name.startswith("features.") for name in weights.named)
    if old:
        names = [f"features.{number}" for number in range(weights.last(r"features\.(\d{1,3})\.conv\.") + 1)]
    else:
        names = [f"layer{number + 1}" for number in range(weights.last(r"layer(\d{1,3})\.conv\."))]
    output = next((name.partition(".")[0] for name in weights.named if name.startswith("output")), "output")
    bias = next((end for end in ("wscale.b", "wscale.bias") if f"{output}.{end}" in weights.named), "conv.bias")
    layers = [weights.layer(name, bias, "conv.weight") for name in names]
    made, promised = 4 * 2 ** (len(layers) // 2 - 1), re.fullmatch(r"output_(\d{1,5})x\1", output)
    if promised and int(promised[1]) != made:
        raise UsageError(f"has '{output}', but the {len(layers)} layers there are make {made} px: some are missing")
    return StoredNetwork(layers, weights.layer(output, bias, "conv.weight"))


def read_gan_zoo(weights: Weights, about: Mapping[str, Any]) -> StoredNetwork:
    """PyTorch GAN Zoo: the bias is scaled as the weight is, the output has the gain of the others."""
    config = about["config"].state if isinstance(about.get("config"), Settings) else {}
    config = config if isinstance(config, dict) else {}
    equalized = bool(config.get("equalizedlR", True))

    def layer(name: str, dimensions: int = 4) -> StoredLayer:
        found = weights.layer(name, dimensions=dimensions)
        scale = math.sqrt(2 / found.weight[0].numel()) if equalized else 1.0
        return StoredLayer(name, found.weight * scale, found.bias * scale)  # as they are used

    if config.get("categoryVectorDim", 0):
        raise UsageError("is of a class-conditional network, whose latents hold a class: no plain latents fit it")
    if config.get("lossMode") in ("DCGAN", "MSE"):
        raise UsageError(
            f"was trained with the loss {config['lossMode']}, for which its images pass a tanh: not supported"
        )
    dense = layer("formatLayer", dimensions=2)
    if dense.weight.shape[0] % 16:
        raise UsageError(f"holds 'formatLayer' of shape {tuple(dense.weight.shape)}, which makes no 4x4 maps")
    first = StoredLayer(
        "formatLayer",
        dense.weight.unflatten(0, (-1, 4, 4)).permute(0, 3, 1, 2).flip(2, 3),
        dense.bias.view(-1, 4, 4) if dense.bias.numel() == dense.weight.shape[0] else dense.bias,
    )
    scales = r"scaleLayers\.(\d{1,3})\."
    pairs = [[first, layer("groupScale0.0")]]
    pairs += [
        [layer(f"scaleLayers.{stage}.{number}") for number in (0, 1)] for stage in range(weights.last(scales) + 1)
    ]
    widths = [pair[0].weight.shape[0] for pair in pairs]
    promised = [config.get("depthScale0", widths[0]), *config.get("depthOtherScales", widths[1:])]
    if promised != widths:
        raise UsageError("has a configuration that names other widths of layers than its weights have")
    # There `alpha` is the share of the coarser image.
    stages = _grown(len(pairs), float(config.get("alpha", 0)) if len(pairs) > 1 else 0.0, "alpha", most=1)
    layers = [one.unscaled() for pair in pairs[:stages] for one in pair]
    settings: dict[str, Any] = {"slope": float(config.get("leakyReluLeak", 0.2)), "dense_bias": True}
    if not config.get("perChannelNormalization", True):
        settings |= {"pixel_norm": False, "unnormalized": ("layer1",)}
    return StoredNetwork(layers, layer(f"toRGBLayers.{stages - 1}").unscaled(gain=1), settings)


def read_genforce(weights: Weights, about: Mapping[str, Any]) -> StoredNetwork:
    """GenForce, InterFaceGAN's and SeFa's later files: the same scaling as here, upsampling layers perhaps transposed."""
    layers = [weights.layer(f"layer{number}") for number in range(weights.last(r"layer(\d{1,3})\.") + 1)]
    # Which of the two a layer is shows where it narrows; where none does, it is taken to be no transposed one.
    if any(layer.weight.shape[1] == len(layer.bias) != layer.weight.shape[0] for layer in layers[2::2]):
        layers[2::2] = [_transposed(layer) for layer in layers[2::2]]
    lod = weights.named.get("lod")
    stages = _grown(len(layers) // 2, float(lod) if lod is not None and lod.numel() == 1 else 0.0, "lod")
    return StoredNetwork(layers[: 2 * stages], weights.layer(f"output{stages - 1}"))


def read_pro_gan(weights: Weights, about: Mapping[str, Any]) -> StoredNetwork:
    """pro-gan-pth: no normalization between the layers of 4 px; before version 3 none of the latent either."""
    old = any(name.startswith("initial_block.") for name in weights.named)
    conf = about.get("conf")
    equalized = bool(conf.get("use_eql", True)) if isinstance(conf, dict) else True
    blocks = [f"layers.{number}" for number in range(weights.last(r"layers\.(\d{1,3})\.") + 1)]
    if old:
        blocks = ["initial_block", *blocks]
    layers = [weights.layer(f"{block}.conv_{number}") for block in blocks for number in (1, 2)]
    output = weights.layer(f"rgb_converters.{len(blocks) - 1}")
    if layers:
        # The first is a transposed convolution of a single pixel, scaled by its inputs alone.
        layers[0] = _transposed(layers[0])
    if equalized:
        output = output._replace(weight=output.weight * math.sqrt(2))
        layers[:1] = [first._replace(weight=first.weight * 4) for first in layers[:1]]
    else:
        layers, output = [layer.unscaled() for layer in layers], output.unscaled(gain=1)
    return StoredNetwork(layers, output, {"unnormalized": ("layer1", "layer2") if old else ("layer2",)})


def read_karras(weights: Weights, about: Mapping[str, Any]) -> StoredNetwork:
    """The TensorFlow networks of Karras et al. (2018): kernels are (height, width, in, out)."""
    built, given = about.get("build_func_name"), about.get("static_kwargs")
    if built not in (None, "G_paper"):
        raise UsageError(f"is of a network that '{short(built)}' builds, which is no PG-GAN's G_paper")
    given = given if isinstance(given, dict) else {}
    if given.get("label_size", 0):
        raise UsageError("is of a class-conditional network, whose latents hold a class: no plain latents fit it")

    def layer(name: str) -> StoredLayer:
        found = weights.layer(name)
        return found._replace(weight=found.weight.permute(3, 2, 0, 1))

    dense = weights.layer("4x4.Dense", dimensions=2)
    if dense.weight.shape[1] % 16:
        raise UsageError(f"holds '4x4/Dense' of shape {tuple(dense.weight.shape)}, which makes no 4x4 maps")
    layers = [
        dense._replace(weight=dense.weight.unflatten(1, (-1, 4, 4)).transpose(0, 1).flip(2, 3)),
        layer("4x4.Conv"),
    ]
    for log2 in range(3, weights.last(r"(\d{1,5})x\1\.").bit_length()):
        size = f"{2**log2}x{2**log2}"
        up = f"{size}.Conv0_up"
        # Its kernel is (height, width, out, in), of a transposed convolution.
        layers += [_transposed(layer(up)) if f"{up}.weight" in weights.named else layer(f"{size}.Conv0")]
        layers += [layer(f"{size}.Conv1")]
    lod = weights.named.get("lod")
    stages = _grown(len(layers) // 2, float(lod) if lod is not None and lod.numel() == 1 else 0.0, "lod")
    layers, output = layers[: 2 * stages], layer(f"ToRGB_lod{len(layers) // 2 - stages}")
    if not given.get("use_wscale", True):
        layers, output = [one.unscaled() for one in layers], output.unscaled(gain=1)
    return StoredNetwork(
        layers,
        output,
        {
            "pixel_norm": bool(given.get("use_pixelnorm", True)),
            "unnormalized": () if given.get("normalize_latents", True) else ("layer1",),
            "eps": float(given.get("pixelnorm_epsilon", 1e-8)),
            "slope": 0.2 if given.get("use_leakyrelu", True) else 0.0,
        },
    )


def _transposed(layer: StoredLayer) -> StoredLayer:
    """A transposed convolution's weight (in, out, k, k) as the convolution's (out, in, k, k) that does the same."""
    return layer._replace(weight=layer.weight.transpose(0, 1).flip(2, 3))


# A name that tells each format from the others.
FORMATS: list[tuple[str, Callable[[Weights, Mapping[str, Any]], StoredNetwork]]] = [
    (r"(layer\d{1,3}|features\.\d{1,3})\.conv\.", read_dissect),
    (r"(formatLayer|toRGBLayers\.\d+)\.", read_gan_zoo),
    (r"output\d{1,3}\.weight", read_genforce),
    (r"rgb_converters\.\d+\.", read_pro_gan),
    (r"ToRGB_lod\d+\.", read_karras),
]
