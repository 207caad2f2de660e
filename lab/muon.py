"""Muon: steps of equal size in all directions of a weight (Jordan et al. 2024, "Muon: an optimizer for hidden layers")."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Moves each weight by its momentum's nearest orthogonal matrix, scaled so that an entry moves by `lr` (root mean square).

    `torch.optim.Muon` takes matrices alone; here a kernel (out, in, h, w) is the matrix (out, in * h * w).
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue  # of a resolution that is still ahead
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                direction = orthogonal(weight.grad.lerp(mean, group["momentum"]).flatten(1))  # Nesterov's
                weight.add_(direction.view_as(weight), alpha=-group["lr"] * max(direction.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Bring all singular values of a matrix (m, n) to about 1 (0.7 to 1.2), by the quintic Newton-Schulz steps of Jordan et al."""
    x = matrix / (matrix.norm() + 1e-7)
    if x.shape[0] > x.shape[1]:
        return orthogonal(matrix.T).T
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x
