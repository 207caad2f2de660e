"""IoU of units with classes: thresholds from the units' activations, then counts of pixels, in batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TOP_QUANTILE = 0.01  # share of a unit's activations above the threshold of its IoU, as in GAN Dissection
# Among which the threshold that maximizes the IoU is sought: from nearly nothing to half of the positions.
TOP_QUANTILES = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
SAMPLE = 2**16  # activations of each unit that are kept: 128 MiB for 512 units


class Activations:
    """Each unit's activations, for their quantiles: all of them, or of many a random sample.

    Up to `SAMPLE` activations per unit the quantiles are exact. Where the latents have more positions than that, the
    same number of positions is drawn from each latent, without replacement; the rank of the 0.99 quantile then has a
    standard error of at most 0.0004. Neither depends on how the latents, `latents` in all, are cut into batches.
    """

    def __init__(self, latents: int):
        self._each, self._random = max(1, SAMPLE // max(latents, 1)), np.random.default_rng(0)
        self._values: list[np.ndarray] = []

    def add(self, maps: Tensor) -> None:
        """Take in activations (n, units, h, w)."""
        for values in maps.flatten(2).float().cpu().numpy():
            if values.shape[1] > self._each:
                values = values[:, self._random.choice(values.shape[1], self._each, replace=False)]
            self._values.append(values.copy())

    def above(self, shares: Sequence[float]) -> np.ndarray:
        """What such shares of each unit's activations reach, and more than its smallest: (shares, units) float32."""
        values = np.concatenate(self._values, axis=1)
        reached = np.quantile(values, 1 - np.array(shares), axis=1).astype(np.float32)
        # A unit that is mostly at its smallest value (0, after a rectifier) is not active there.
        return np.maximum(reached, np.nextafter(values.min(axis=1), np.float32(np.inf)))


class Overlap:
    """Counts of the pixels where units reach `thresholds` (t, units) and where each class is seen, both and either."""

    def __init__(self, thresholds: np.ndarray, classes: int, device: torch.device | str = "cpu"):
        t, units = thresholds.shape
        self.thresholds, self.classes = torch.from_numpy(thresholds).to(device), classes
        # Where the maps are: nothing waits for a GPU before the end.
        self._both = torch.zeros(t, units, classes, dtype=torch.float64, device=device)
        self._active = torch.zeros(t, units, 1, dtype=torch.float64, device=device)
        self._shown = torch.zeros(classes, dtype=torch.float64, device=device)

    def add(self, maps: Tensor, labels: Tensor) -> None:
        """Take in activations (n, units, h, w), upsampled bilinearly to the size of the labels (n, H, W)."""
        thresholds = self.thresholds.to(maps)
        lowest = thresholds.amin(dim=0)
        for activations, seen in zip(maps, labels, strict=True):
            masks = F.one_hot(seen.flatten(), self.classes).to(maps)
            self._shown += masks.sum(dim=0).double()
            # Interpolation exceeds no value: the other units are active nowhere.
            units = (activations.amax(dim=(1, 2)) >= lowest).nonzero()[:, 0]
            if not len(units):
                continue
            enlarged = F.interpolate(activations[None, units], size=seen.shape, mode="bilinear", align_corners=False)
            enlarged = enlarged[0].flatten(1)
            for i, threshold in enumerate(thresholds):
                active = (enlarged >= threshold[units, None]).to(maps)
                with torch.autocast(maps.device.type, enabled=False):  # which would round the counts
                    self._both[i, units] += (active @ masks).double()
                self._active[i, units] += active.sum(dim=1, keepdim=True).double()

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """The largest IoU over the thresholds (units, classes), in [0, 1], and the threshold that gives it."""
        either = self._active + self._shown - self._both
        iou, which = (self._both / either.clamp_min(1)).max(dim=0)
        return iou.cpu().numpy(), self.thresholds.double().cpu()[which.cpu(), torch.arange(len(iou))[:, None]].numpy()
