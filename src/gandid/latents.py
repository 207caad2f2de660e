"""Latents by number: latent `i` of a seed is the same whatever the batch, the device or the order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

# Independent streams of one seed: the units are chosen on other latents than the effects are measured on.
STREAMS = {"effects": 0, "ranking": 1, "donors": 2, "typical": 3, "calibration": 4, "distillation": 5}


def latents(seed: int, indices: Iterable[int], dim: int, stream: str = "effects") -> Tensor:
    """Standard normal latents, float32 of shape (n, dim), generated from a counter (Philox) per latent."""
    key = np.array([seed, STREAMS[stream]], np.uint64)  # a list with a large seed would be rounded
    rows = [
        np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, index])).standard_normal(dim)
        for index in indices
    ]
    return torch.from_numpy(np.array(rows, dtype=np.float32).reshape(-1, dim))


def chunked(numbers: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Split latents at the multiples of `size`, so that a run that was cut short has the parts of an unbroken one."""
    return [tuple(chunk) for _, chunk in groupby(numbers, lambda number: number // size)]
