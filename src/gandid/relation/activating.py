"""The images on which each unit is most active, as GAN Dissection shows units (Bau et al. 2018, figure 2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PLACES = 6  # images per unit


class MostActivating:
    """Keeps, of a stream of latents, those on which each unit's largest activation is largest, and its maps there."""

    def __init__(self, units: int, size: tuple[int, ...]):
        self._largest = torch.empty(units, 0)
        self._latent = torch.empty(units, 0, dtype=torch.int64)
        self._maps = torch.empty(units, 0, *size, dtype=torch.float16)

    def add(self, first: int, maps: Tensor) -> None:
        """Take in the activations (n, units, h, w) of latents `first`, `first + 1`, and so on."""
        maps = maps.transpose(0, 1).cpu()
        numbers = torch.arange(first, first + maps.shape[1]).expand(len(maps), -1)
        largest = torch.cat([self._largest, maps.amax(dim=(2, 3))], dim=1)
        # Stable: of latents that are alike, those that came first stay.
        self._largest, order = largest.sort(dim=1, descending=True, stable=True)
        self._largest, order = self._largest[:, :PLACES], order[:, :PLACES]
        self._latent = torch.cat([self._latent, numbers], dim=1).gather(1, order)
        every = torch.cat([self._maps, maps.half()], dim=1)
        self._maps = every.gather(1, order[..., None, None].expand(-1, -1, *every.shape[2:]))

    @property
    def latents(self) -> np.ndarray:
        """Their numbers, best first: (units, places)."""
        return self._latent.numpy()

    @property
    def maps(self) -> np.ndarray:
        """The unit's activations on them: (units, places, h, w) float16."""
        return self._maps.numpy()
