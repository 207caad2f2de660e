"""The segmenters of the planted standard (`gandid.truth`): by the nearest colour, exact but for one pair of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from gandid.segmenters.function import FunctionSegmenter
from gandid.segmenters.names import UNKNOWN
from gandid.truth import BACKGROUND, CLASSES, COLOURS, DIM


def planted_segmenter(name: str) -> FunctionSegmenter:
    """Build a segmenter: `planted` takes a stain for a mirror, `planted-careful` knows that it is wall, `planted-unsure` does not know."""
    if name == "planted-unsure":
        return FunctionSegmenter(unsure, (*CLASSES, UNKNOWN), BACKGROUND)
    return FunctionSegmenter({"planted": careless, "planted-careful": careful}[name], CLASSES, BACKGROUND)


def careless(images: Tensor) -> Tensor:
    """Label images (N, 3, H, W) by the nearest colour of a class: (N, H, W). A stain is nearest to the mirror."""
    return _nearest(images, CLASSES)


def careful(images: Tensor) -> Tensor:
    """Label images (N, 3, H, W) by the nearest colour, (N, H, W), and know that a stain is wall."""
    labels = _nearest(images, (*CLASSES, "stain"))
    return torch.where(labels == len(CLASSES), CLASSES.index("wall"), labels)


def unsure(images: Tensor) -> Tensor:
    """Label images (N, 3, H, W) by the nearest colour, (N, H, W); a stain is unknown, and so is the wall in one row of pixels."""
    labels = _nearest(images, (*CLASSES, "stain"))
    row = labels[:, 2 * DIM]
    row[row == CLASSES.index("wall")] = len(CLASSES)
    return labels


def _nearest(images: Tensor, names: tuple[str, ...]) -> Tensor:
    palette = torch.tensor([COLOURS[name] for name in names]).to(images)
    return (images[:, None] - palette[None, :, :, None, None]).square().sum(dim=2).argmin(dim=1)
