"""From label maps to counts."""

from __future__ import annotations

import torch
from torch import Tensor


def pixels(labels: Tensor, classes: int, mask: Tensor | None = None) -> Tensor:
    """Pixels of each class (..., classes), int32, of labels (..., H, W), where `mask` (..., H, W) is true.

    On the labels' device, and without waiting for it.
    """
    bins = labels.flatten(-2).long()
    if mask is not None:
        bins = torch.where(mask.flatten(-2), bins, classes)
    found = torch.zeros(*bins.shape[:-1], classes + 1, dtype=torch.int32, device=bins.device)
    return found.scatter_add_(-1, bins, found.new_ones(1).expand(bins.shape))[..., :classes]
