"""What the ablation of single units takes from each class, and a file that keeps it as it is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gandid.interventions import REFERENCE, Arm, Runner, ablate
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


def drops(
    runner: Runner, segmenter: Segmenter, z: Tensor, before: np.ndarray, units: Sequence[int], rows: int
) -> np.ndarray:
    """Loss of area to each unit's ablation alone.

    Parameters
    ----------
    z : Tensor of shape (n, latent_dim)
    before : array of shape (n, classes)
        Area of the unedited images.
    units : sequence of int
    rows : int
        Images that may be made at once.

    Returns
    -------
    array of shape (n, units, classes)
        Shares of the image.
    """
    group, classes, after = max(1, rows // len(z) - 1), len(segmenter.classes), []
    for start in range(0, len(units), group):
        arms = [Arm(ablate((unit,))) for unit in units[start : start + group]]
        labels = segmenter(runner.run(z, [REFERENCE, *arms])[1:].flatten(0, 1))
        after.append(area(labels, classes).numpy().reshape(len(arms), len(z), classes))
    return (before - np.concatenate(after)).transpose(1, 0, 2)
