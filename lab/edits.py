"""Ablated images of a rooms generator, with the truth: how much of an object is gone from each pixel.

The scene of a latent is known, and so is the same room without its furniture. A pixel of an ablated image lies somewhere on the
way from the object's colour to that of the wall or floor behind it; how far says how much of the object is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gandid.generators.pggan import Generator
from lab import rooms
from lab.corruptions import change

LAYERS = ("layer4", "layer4", "layer5", "layer6")  # that are ablated, and how often: studies ablate layer4
TOGETHER = 8  # images of one edit
SMEAR = 5  # pixels across over which colours are averaged: an ablated object is smeared before it is gone
CONTRAST = 0.25  # distance (root mean square over the average) of an object's colour from the room's, below which nothing can be told
SPOILT = 0.8  # difference of a colour channel (of 2) at which a generated pixel does not show its scene
ELSEWHERE = 0.4  # distance of a pixel from that way, from which it shows something else


@dataclass(frozen=True)
class Edited:
    """Images before and after an ablation, and what they show.

    `before`, `after` are (n, 3, H, W) in [-1, 1]; `labels` and `bare`, int64 (n, H, W), index into `rooms.CLASSES`, are the classes of
    the scene and of its empty room; `drawn`, bool (n, H, W), says where `before` shows the scene; `gone`, float32 (n, H, W), is how much
    of an object is gone, 0 to 1, and NaN where that cannot be told, as where none was.
    """

    before: Tensor
    after: Tensor
    labels: Tensor
    bare: Tensor
    drawn: Tensor
    gone: Tensor


def makers(generator: Generator, layer: str, z: Tensor, toward: Tensor, mask: Tensor) -> Tensor:
    """Units of a layer by how much their removal brings images nearer to others where a mask says, to first order: (C,), the most first.

    Of the product of each unit's activation and the gradient of the images along the way `toward` (n, 3, H, W); `mask` is
    bool (n, H, W).
    """
    with torch.enable_grad():
        x = generator.prefix(z, layer).detach().requires_grad_()
        images = generator.suffix(x, layer)
        along = ((toward - images.detach()) * images * mask[:, None]).sum()
        (slope,) = torch.autograd.grad(along, x)
    return (x.detach() * slope).sum(dim=(0, 2, 3)).argsort()  # removal moves against the activation


def ablate(
    generator: Generator, z: Tensor, target: str, layer: str = "layer4", units: int = 20, strength: float = 1.0
) -> Edited:
    """Scale the units that make an object in the images of latents (n, LATENT) by 1 - `strength`, everywhere.

    The object must be in the scenes; `target` is its class.
    """
    size = generator.resolution
    scene, labels = rooms.paint(z, size)
    room, bare = rooms.paint(z, size, furnished=False)
    chosen = makers(generator, layer, z, room, labels == rooms.CLASSES.index(target))[:units]
    with torch.inference_mode():
        x = generator.prefix(z, layer)
        before = generator.suffix(x, layer).clamp(-1, 1)
        x[:, chosen] *= 1 - strength
        after = generator.suffix(x, layer).clamp(-1, 1)
        drawn = change(before, scene) <= SPOILT
        left = torch.where(drawn & (labels != bare), gone(before, after, room), torch.nan)
    return Edited(before, after, labels, bare, drawn, left)


def gone(before: Tensor, after: Tensor, room: Tensor) -> Tensor:
    """How far a pixel has gone from `before` toward `room`, (n, 3, H, W) all: 0 to 1, shape (n, H, W).

    The share that is least squares on the colours of `SMEAR` x `SMEAR` pixels. NaN where the two hardly differ (`CONTRAST`), and where the
    pixel is not between them (`ELSEWHERE`).
    """

    def smeared(values: Tensor) -> Tensor:
        return F.avg_pool2d(values.sum(dim=1, keepdim=True), SMEAR, 1, SMEAR // 2, count_include_pad=False)

    way, moved = room - before, after - before
    length = smeared(way.square())
    share = (smeared(moved * way) / length.clamp(min=1e-6)).clamp(0, 1)
    aside = smeared((moved - share * way).square())
    known = (length > 3 * CONTRAST**2) & (aside < 3 * ELSEWHERE**2)
    return torch.where(known, share, torch.nan)[:, 0]


def edits(generator: Generator, n: int, seed: int) -> Iterator[Edited]:
    """`n` edits of `TOGETHER` images each: of any object, by 5 to 60 % of the units of any of `LAYERS`, half of the time in part."""
    random = torch.Generator().manual_seed(seed)
    z = rooms.latents(40 * TOGETHER, seed)
    shown = rooms.paint(z, generator.resolution)[1]
    for _ in range(n):
        target, layer = (some[int(torch.randint(len(some), (), generator=random))] for some in (rooms.OBJECTS, LAYERS))
        rows = (shown == rooms.CLASSES.index(target)).flatten(1).any(dim=1).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=random)[:TOGETHER]]
        width = len(generator.get_submodule(layer).conv.weight)
        units = int(width * (0.05 + 0.55 * torch.rand((), generator=random)))
        partly, part = torch.rand(2, generator=random).tolist()
        strength = 1.0 if partly < 0.5 else 0.3 + 0.7 * part
        yield ablate(generator, z[rows], target, layer, units, strength)
