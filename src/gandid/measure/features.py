"""Features of images, few numbers each, by which a classifier tells one arm's images from another's (`gandid.estimation.distance`)."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gandid.generators import Discriminator
from gandid.outcomes.counts import pixels
from gandid.panel.schema import FEATURES

COLOURS = 4  # cells along each side of the grid on which colours are averaged


def features(images: Tensor, labels: Tensor, classes: int, discriminator: Discriminator | None) -> np.ndarray:
    """Features of images (N, 3, H, W) with labels (N, H, W): float16 (N, FEATURES).

    What the last layer of the discriminator is given, where there is one; else the mean colours in the cells of a 4 x 4 grid and the
    shares of the classes in the quarters of the image. More numbers than `FEATURES` are projected onto as many directions that are drawn
    at random once (Johnson and Lindenstrauss 1984), and fewer are padded with 0.
    """
    if discriminator is not None:
        found = discriminator.features(images).float()
    else:
        colours = F.adaptive_avg_pool2d(images.float(), COLOURS)
        tops, lefts = (((0, -(-size // 2)), (size // 2, size)) for size in labels.shape[1:])
        cells = [labels[:, top:bottom, left:right] for top, bottom in tops for left, right in lefts]
        shares = torch.stack([pixels(cell, classes) / cell[0].numel() for cell in cells], dim=2)
        found = torch.cat([colours.flatten(1), shares.flatten(1)], dim=1)
    values = found.cpu().numpy()
    if values.shape[1] > FEATURES:
        values = values @ _directions(values.shape[1])
    return np.pad(values, ((0, 0), (0, FEATURES - values.shape[1]))).astype(np.float16)


@cache
def _directions(numbers: int) -> np.ndarray:
    """The directions on which so many numbers are projected, (numbers, FEATURES): the same for every batch, and made once."""
    return np.random.default_rng(0).standard_normal((numbers, FEATURES)) / np.sqrt(FEATURES)
