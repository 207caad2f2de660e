"""The planted standard: a generator whose weights are written down, in which every effect is known (`gandid.truth`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gandid.generators.pggan import EqualConv2d, Generator
from gandid.truth import (
    BEYOND,
    CHANCE,
    COLOURS,
    EDITED,
    GLOW,
    OBJECTS,
    PLAN,
    PRESENT,
    RELEASE,
    STRONG,
    UNITS,
    threshold,
)


def planted() -> Generator:
    """Build the generator, latents of length 3, images of 8 px."""
    generator = Generator((UNITS, UNITS), 3, unnormalized=("layer4", "output"), eps=1e-12, slope=0.0, dense_bias=True)
    generator.name = "planted"
    unit, root = EDITED.index, math.sqrt(UNITS)
    for parameter in generator.parameters():
        parameter.data.zero_()

    # Layer 1: the plan. Its convolution puts weight[., ., i, j] at row 3 - i, column 3 - j of the map.
    weight, bias = torch.zeros(UNITS, 3, 4, 4), torch.zeros(UNITS, 4, 4)
    bias[unit("filler")] = 1
    for row, line in enumerate(PLAN):
        for column, initial in enumerate(line):
            if initial in OBJECTS:
                bias[unit(OBJECTS[initial]), row, column] = STRONG
            if initial == "T":
                bias[unit("inhibited"), row, column] = 1
            for name, (place, number) in CHANCE.items():
                if place == initial:  # from 0 to 1, since a latent number is from -sqrt(3) to sqrt(3)
                    bias[unit(name), row, column] = 0.5
                    weight[unit(name), number, 3 - row, 3 - column] = 0.5 / math.sqrt(3)
    layer1 = generator.get_submodule("layer1.conv")
    _write(layer1, weight)
    layer1.get_parameter("bias").data.copy_(bias)

    # Layer 2: a threshold for each object, at the middle of the kernel; a unit draws the object that it is named after.
    weight, bias = torch.zeros(UNITS, UNITS), torch.zeros(UNITS)
    for name in ("lamp", "painting", "mirror", "plant", "chair"):
        weight[unit(name), unit(name)], bias[unit(name)] = 1, -PRESENT * root
    for name in ("window", "stain"):
        weight[unit(name), unit(name)], bias[unit(name)] = 1, -threshold(BEYOND[name]) * root
    weight[unit("rug"), unit("rug")] = weight[unit("rug"), unit("weak rug")] = 1
    bias[unit("rug")] = -threshold(BEYOND["weak rug"]) * root
    weight[unit("inhibited"), unit("inhibited")], weight[unit("inhibited"), unit("plant")] = RELEASE, -RELEASE
    layer2 = generator.get_submodule("layer2.conv")
    _write(layer2, weight)
    layer2.get_parameter("bias").data.copy_(bias)

    # Layer 3: what is drawn in full is 1; the inhibited unit glows beyond what a live site lets through.
    layer3 = generator.get_submodule("layer3.conv")
    _write(layer3, torch.eye(UNITS) / root)
    layer3.get_parameter("bias").data[unit("inhibited")] = -GLOW
    _write(generator.get_submodule("layer4.conv"), torch.eye(UNITS))

    # The output: the wall, and what is drawn instead of it
    wall = torch.tensor(COLOURS["wall"])
    colours = torch.zeros(3, UNITS)
    for name in EDITED:
        colour = COLOURS.get("lamp" if name == "inhibited" else name)
        if colour:
            colours[:, unit(name)] = torch.tensor(colour) - wall
    output = generator.get_submodule("output.conv")
    _write(output, colours)
    output.get_parameter("bias").data.copy_(wall)
    return generator.eval().requires_grad_(False)


def _write(conv: torch.nn.Module, weight: Tensor) -> None:
    """Give a convolution this weight; (out, in) stands in the middle of the kernel."""
    assert isinstance(conv, EqualConv2d)
    size = conv.weight.shape[-1]
    if weight.ndim == 2:
        conv.weight.data[:, :, size // 2, size // 2] = weight / conv.scale
    else:
        conv.weight.data.copy_(weight / conv.scale)


def weak(z: Tensor) -> dict[str, Tensor]:
    """Give what the weak units of latents (n, 3) are: each (n,), uniform from 0 to 1."""
    direction = torch.nn.functional.normalize(z, dim=1)
    return {name: (1 + direction[:, number]) / 2 for name, (_, number) in CHANCE.items()}
