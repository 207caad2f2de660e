"""Edits of a layer's output: ablation, partial ablation and insertion of units, everywhere or in a region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gandid.errors import UsageError, first_line

ABLATIONS = ("zero", "mean", "resample")
Rectangle = tuple[float, float, float, float]  # x0, y0, x1, y1: shares of the width and height of an image


def covered(region: Tensor | Rectangle | None, size: Sequence[int]) -> Tensor:
    """The share of each cell of a map of `size` (h, w) that lies in a region of the image, all of it by default: (..., h, w), in [0, 1].

    The region is a rectangle, or a map of weights (..., height, width) of any resolution, over which a cell takes the average.
    """
    if isinstance(region, Tensor):
        return F.interpolate(region.float().reshape(-1, 1, *region.shape[-2:]), tuple(size), mode="area").squeeze(1)
    if region is None:
        return torch.ones(tuple(size))
    x0, y0, x1, y1 = region
    ends = [(y0, y1, size[0]), (x0, x1, size[1])]
    rows, columns = ((torch.arange(n + 1) / n).clamp(low, high).diff() * n for low, high, n in ends)
    return torch.outer(rows, columns)


def read_mask(path: str, size: Sequence[int]) -> Tensor:
    """Read a region from a picture or a NumPy file (.npy), (height, width) as `size`: 1 where it is not black or 0, else 0.

    Raises
    ------
    UsageError
        If it cannot be read, is of another size, or is empty.
    """
    try:
        if Path(path).suffix == ".npy":
            found = np.load(path)
        else:
            with Image.open(path) as picture:
                found = np.asarray(picture.convert("L"))
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"region: write X0,Y0,X1,Y1, or a mask's file; '{path}' cannot be read ({first_line(error)})"
        ) from error
    if found.shape != tuple(size):
        sides, expected = (" x ".join(map(str, shape)) for shape in (found.shape, size))
        raise UsageError(f"the mask {path} is {sides}, and the images are {expected} (height x width)")
    if not found.any():
        raise UsageError(f"the mask {path} is empty: no pixel of it is white")
    return torch.from_numpy((found != 0).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Edit:
    """Move units a share `alpha` of the way to other values.

    Parameters
    ----------
    units : tuple of int
        Channels of the layer's output.
    values : Tensor of shape (len(units),), or None
        Where to: zeros (ablation as in GAN Dissection), the units' means (mean ablation), their means where an object is
        seen (insertion). None: what the units are for another latent, the *donor* (resample ablation).
    alpha : float
        Share of the way, in [0, 1]. Less than 1 is partial ablation.
    region : Tensor of shape (h, w) or (N, h, w), or (x0, y0, x1, y1), optional
        Weights in [0, 1] at the resolution of the layer or the image, or a rectangle in shares of the image's width and height, of
        which a cell at its edge is edited as far as it lies within; everywhere by default.
    then : Edit, optional
        Another edit, made after this one.
    """

    units: tuple[int, ...]
    values: Tensor | None
    alpha: float = 1.0
    region: Tensor | Rectangle | None = None
    then: Edit | None = None

    def apply_(self, x: Tensor, donor: Tensor | None = None) -> Tensor:
        """Edit `x` (N, C, h, w) in place, with the layer's output `donor` (n, C, h, w) for the other latents: N is n, or blocks of n."""
        units = torch.tensor(self.units, device=x.device)
        before = x[:, units]
        if self.values is not None:
            after = self.values.to(x)[:, None, None].expand_as(before)
        else:
            assert donor is not None, "resample ablation needs donor latents"
            after = donor[:, units].repeat(len(x) // len(donor), 1, 1, 1)
        x[:, units] = torch.lerp(before, after, self.weights(x)[:, None])
        return self.then.apply_(x, donor) if self.then else x

    def weights(self, x: Tensor) -> Tensor:
        """How far units move at each position of `x` (N, C, h, w): (N, h, w), in [0, 1]; where there is a region for each image, in turn."""
        share = self.alpha * covered(self.region, x.shape[2:]).to(x).reshape(-1, *x.shape[2:])
        return share.repeat(len(x) // len(share), 1, 1)


def ablate(
    units: tuple[int, ...],
    kind: str = "zero",
    *,
    means: Tensor | None = None,
    alpha: float = 1.0,
    region: Tensor | Rectangle | None = None,
) -> Edit:
    """Ablate units: to zero, to their `means` (C,) over latents and positions, or to another latent's values.

    Raises
    ------
    UsageError
        If the kind of ablation is unknown, or `alpha` is not in [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha}: choose a share between 0 and 1")
    if kind == "zero":
        values = torch.zeros(len(units))
    elif kind == "mean":
        assert means is not None, "mean ablation needs the units' means"
        values = means[list(units)]
    elif kind == "resample":
        values = None
    else:
        raise UsageError(f"unknown ablation '{kind}': choose one of {', '.join(ABLATIONS)}")
    return Edit(tuple(units), values, alpha, region)


def insert(
    units: tuple[int, ...], levels: Tensor, region: Tensor | Rectangle | None = None, *, alpha: float = 1.0
) -> Edit:
    """Set units to `levels` (C,), their means over the positions where the object to insert is seen."""
    return Edit(tuple(units), levels[list(units)], alpha, region)
