"""What the ablation of single units takes from each class, and a file that keeps it as it is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gandid.interventions import Runner
from gandid.segmenters import Segmenter


class Kept:
    """What a measurement that is under way has found, in a file: rows of float32, in the order in which they were asked for.

    The same calls in the same order get from the file what it holds, and the rest is computed and added. So a ranking that
    was cut short goes on as if it had not been, with the numbers that it had decided by.
    """

    def __init__(self, path: Path | None):
        self._path, self._at = path, 0

    def rows(self, count: int, shape: tuple[int, ...], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """`count` rows (count, *shape): as they were kept, and where not all were, the others from `compute()`."""
        size = 4 * math.prod(shape)
        if self._path is None:
            return np.asarray(compute(), np.float32)
        stored = self._path.stat().st_size - self._at if self._path.exists() else 0
        have = min(max(stored, 0) // size, count)
        rows = np.empty((count, *shape), np.float32)
        if have:
            with self._path.open("rb") as file:
                file.seek(self._at)
                rows[:have] = np.fromfile(file, np.float32, have * math.prod(shape)).reshape(have, *shape)
        self._at += have * size
        if have < count:
            rows[have:] = compute()[have:]
            with self._path.open("ab") as file:
                file.truncate(self._at)  # part of a row, where a writer was killed
                rows[have:].tofile(file)
            self._at += (count - have) * size
        return rows


def area(labels: Tensor, classes: int) -> Tensor:
    """Share of the image that each class covers (n, classes), float64, of labels (n, H, W); counted where they are."""
    flat = labels.flatten(1)
    offsets = classes * torch.arange(len(flat), device=flat.device)[:, None]
    counts = torch.bincount((flat + offsets).flatten(), minlength=len(flat) * classes)
    return counts.view(len(flat), classes).double().cpu() / flat.shape[1]


@torch.inference_mode()
def drops(
    runner: Runner,
    segmenter: Segmenter,
    z: Tensor,
    before: np.ndarray,
    latent: np.ndarray,
    unit: np.ndarray,
    rows: int,
) -> np.ndarray:
    """Loss of area to the ablation of one unit alone, of one latent at a time.

    Parameters
    ----------
    z : Tensor of shape (n, latent_dim)
    before : array of shape (n, classes)
        Area of the unedited images.
    latent, unit : int arrays of shape (pairs,)
        Which latents and which units; pairs of one latent should lie next to each other, for the network runs once on it up to
        the layer.
    rows : int
        Images that may be made at once.

    Returns
    -------
    array of shape (pairs, classes), float32
        Shares of the image.
    """
    after = []
    for start in range(0, len(latent), rows):
        some, units = latent[start : start + rows], torch.from_numpy(unit[start : start + rows]).to(z.device)
        own, place = (torch.from_numpy(of).to(z.device) for of in np.unique(some, return_inverse=True))
        scale = torch.ones(len(some), runner.units, device=z.device)
        scale[torch.arange(len(some), device=z.device), units] = 0
        labels = segmenter(runner.scaled(z[own], scale, place))
        after.append(area(labels, len(segmenter.classes)).numpy())
    return (before[latent] - np.concatenate(after)).astype(np.float32)
