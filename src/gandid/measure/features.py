"""Features of images, few numbers each, by which a classifier tells one arm's images from another's (`gandid.estimation.distance`)."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gandid.generators import Discriminator
from gandid.panel.schema import FEATURES

COLOURS, SHARES = 4, 2  # cells along each side of the grids on which colours and classes are averaged


def features(images: Tensor, labels: Tensor, classes: int, discriminator: Discriminator | None) -> np.ndarray:
    """Features of images (N, 3, H, W) with labels (N, H, W): float16 (N, FEATURES).

    What the last layer of the discriminator is given, where there is one; else the mean colours in the cells of a 4 x 4 grid and the
    shares of the classes in those of a 2 x 2 grid. More numbers than `FEATURES` are projected onto as many directions that are drawn
    at random once (Johnson and Lindenstrauss 1984), and fewer are padded with 0.
    """
    if discriminator is not None:
        found = discriminator.features(images).float()
    else:
        maps = F.one_hot(labels.long(), classes).permute(0, 3, 1, 2)
        grids = ((images.float(), COLOURS), (maps.float(), SHARES))
        found = torch.cat([F.adaptive_avg_pool2d(each, cells).flatten(1) for each, cells in grids], dim=1)
    values = found.cpu().numpy()
    if values.shape[1] > FEATURES:
        values = values @ _directions(values.shape[1])
    return np.pad(values, ((0, 0), (0, FEATURES - values.shape[1]))).astype(np.float16)


@cache
def _directions(numbers: int) -> np.ndarray:
    """The directions on which so many numbers are projected, (numbers, FEATURES): the same for every batch, and made once."""
    return np.random.default_rng(0).standard_normal((numbers, FEATURES)) / np.sqrt(FEATURES)
