"""The planted standard: a generator whose weights are written down, in which every effect is known (`gandid.truth`)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gandid.generators.pggan import EqualConv2d, Generator
from gandid.truth import CHANCE, EDITED, EPS, NETWORKS, PLAN, UNITS, layers, plan_units


def planted(network: str = "planted") -> Generator:
    """Build the generator, or another of `gandid.truth.NETWORKS`: latents of length 3, images of 8 px."""
    how: dict[str, Any] = {"eps": EPS, "slope": 0.0, "dense_bias": True}
    generator = Generator((UNITS, UNITS), 3, NETWORKS[network][0], unnormalized=("layer4", "output"), **how)
    generator.name = network
    for parameter in generator.parameters():
        parameter.data.zero_()
    # Layer 1: the plan. Its convolution puts weight[., ., i, j] at row 3 - i, column 3 - j of the map.
    weight, bias = torch.zeros(UNITS, 3, 4, 4), torch.zeros(UNITS, 4, 4)
    for row, line in enumerate(PLAN):
        for column, initial in enumerate(line):
            fixed, weak = map(torch.from_numpy, plan_units(initial))
            bias[:, row, column] = fixed + weak / 2  # from 0 to 1, since a latent number is from -sqrt(3) to sqrt(3)
            for name, (_, number) in CHANCE.items():
                weight[EDITED.index(name), number, 3 - row, 3 - column] = weak[EDITED.index(name)] / 2 / math.sqrt(3)
    rest = [map(torch.from_numpy, parts) for parts in layers(network)]
    for layer, parts in zip((*generator.layers, "output"), [(weight, bias), *rest], strict=True):
        _write(generator.get_submodule(f"{layer}.conv"), *parts)
    return generator.eval().requires_grad_(False)


def _write(conv: torch.nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Give a convolution a weight and a bias; a weight (out, in) stands in the middle of the kernel."""
    assert isinstance(conv, EqualConv2d)
    size = conv.weight.shape[-1]
    if weight.ndim == 2:
        conv.weight.data[:, :, size // 2, size // 2] = weight / conv.scale
    else:
        conv.weight.data.copy_(weight / conv.scale)
    conv.bias.data.copy_(bias)


def weak(z: Tensor) -> dict[str, Tensor]:
    """Give what the weak units of latents (n, 3) are: each (n,), uniform from 0 to 1."""
    direction = torch.nn.functional.normalize(z, dim=1)
    return {name: (1 + direction[:, number]) / 2 for name, (_, number) in CHANCE.items()}
