"""The ablation of single units, each alone: what it takes from every class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gandid.interventions import Runner
from gandid.ranking.journal import Journal
from gandid.segmenters import Segmenter


def area(labels: Tensor, classes: int) -> Tensor:
    """Share of the image that each class covers (n, classes), float64 on the CPU, of labels (n, H, W)."""
    flat = labels.flatten(1)
    offsets = classes * torch.arange(len(flat), device=flat.device)[:, None]
    counts = torch.bincount((flat + offsets).flatten(), minlength=len(flat) * classes)
    return counts.view(len(flat), classes).double().cpu() / flat.shape[1]


@dataclass(frozen=True)
class Ablations:
    """Ablations of single units on the latents of a ranking."""

    runner: Runner
    segmenter: Segmenter
    z: Tensor
    """(n, latent_dim)."""
    area: np.ndarray
    """(n, classes), float32: area of each class in the unedited images, as a share of the image."""
    rows: int
    """Images that may be made at once."""
    journal: Journal
    advance: Callable[[float], None]
    """Called with the work done since the last call; all of a ranking is `n`."""

    def drops(self, latent: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """Loss of area of every class, a share of the image, when one unit alone is set to zero in one latent.

        `latent` and `unit` are (pairs,), the losses (pairs, classes) float32. Pairs of one latent should be neighbours,
        for the network runs once on it up to the layer.
        """
        return self.journal.take((len(latent), self.area.shape[1]), lambda: self._measure(latent, unit))

    @torch.inference_mode()
    def _measure(self, latent: np.ndarray, unit: np.ndarray) -> np.ndarray:
        after, device = [], self.z.device
        for start in range(0, len(latent), self.rows):
            distinct, place = np.unique(latent[start : start + self.rows], return_inverse=True)
            units = torch.from_numpy(unit[start : start + self.rows]).to(device)
            scale = torch.ones(len(units), self.runner.units, device=device)
            scale[torch.arange(len(units), device=device), units] = 0
            z = self.z[torch.from_numpy(distinct).to(device)]
            labels = self.segmenter(self.runner.scaled(z, scale, torch.from_numpy(place).to(device)))
            after.append(area(labels, self.area.shape[1]).numpy())
        return (self.area[latent] - np.concatenate(after)).astype(np.float32)
