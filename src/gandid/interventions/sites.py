"""Sites: normalizations whose statistic an experiment can hold, and the controls that say what they are held at."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

CONTROLS = ("capped", "frozen")


@runtime_checkable
class Site(Protocol):
    """A normalization in two steps: take a statistic, then apply it."""

    def statistic(self, x: Tensor) -> Tensor:
        """The scale `sigma`, broadcastable to `x`, that the site divides `x` by."""
        ...

    def apply_statistic(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Normalize `x` with a given `sigma`."""
        ...


def find_sites(network: nn.Module) -> dict[str, Any]:
    """All sites of a network, by dotted module name, in the order of registration."""
    return {name: module for name, module in network.named_modules() if isinstance(module, Site)}


def held_statistic(control: str, reference: Tensor, natural: Tensor) -> Tensor:
    """The statistic that a held site is given (THEORY: "Objects", control).

    Parameters
    ----------
    control : {"capped", "frozen"}
        `frozen` gives `reference`; `capped` gives `max(reference, natural)`, so that the site may attenuate as it
        would but not amplify beyond what it did before the edit.
    reference : Tensor
        The statistic that the site took for the same latent with no edit and nothing held.
    natural : Tensor
        The statistic that the site would take of what it is given.

    Raises
    ------
    ValueError
        If the control is unknown.
    """
    if control == "frozen":
        return reference.expand_as(natural)
    if control == "capped":
        return torch.maximum(reference, natural)
    raise ValueError(f"unknown control '{control}'")
