"""Matched random sets of units: as many as a target's own, none of them, and of about the same energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb

import numpy as np
import torch
from torch import Tensor

from gandid.errors import UsageError
from gandid.interventions import Edit, Runner

TOLERANCE = 0.02  # of the energy that a random set is to have


def energies(runner: Runner, z: Tensor, rows: int) -> np.ndarray:
    """Each unit's energy, the mean of its square over latents (n, latent_dim) and positions: (C,)."""
    total = torch.zeros(runner.units, dtype=torch.float64)
    for part in z.split(max(1, rows // 2)):
        total += runner.activations(part).double().square().mean(dim=(2, 3)).sum(dim=0).cpu()
    return (total / len(z)).numpy()


def possible_draws(edits: Mapping[str, Edit], units: int, count: int) -> int:
    """How many random sets there are for every target, at most `count`.

    Raises
    ------
    UsageError
        If a target's units are more than the layer's others.
    """
    for target, edit in edits.items():
        size, others = len(edit.units), units - len(edit.units)
        if others < size:
            raise UsageError(f"{target}: {size} of {units} units are edited, which leaves no placebo: edit fewer")
        count = min(count, comb(others, size))
    return count


def drawn_units(edits: Mapping[str, Edit], energies: np.ndarray, count: int, seed: int) -> list[dict[str, list[int]]]:
    """The units of every target in `count` draws, matched to those of its edit by `energies` (C,); fewer are the first of more."""
    drawn = {
        target: matched(energies, edit.units, count, TOLERANCE, np.random.default_rng([seed, t]))
        for t, (target, edit) in enumerate(edits.items())
    }
    return [{target: sets[draw].tolist() for target, sets in drawn.items()} for draw in range(count)]


def matched(
    energy: np.ndarray, own: Sequence[int], count: int, tolerance: float, rng: np.random.Generator
) -> np.ndarray:
    """Random sets of units, as many as a set's own and none of them, whose summed energy is about that of its own.

    Each begins as random units. One of them is swapped for one outside, at random among the swaps that bring the sum nearer and
    give a set not found before, until the sum is near enough or no such swap is left. So all sets differ; where the own units
    are the strongest, no set is near enough, and the nearest stand together.

    Parameters
    ----------
    energy : (C,)
        Energy of every unit, not negative.
    own : sequence of int
        K units.
    count : int
        Number of sets; a ValueError says where there are fewer.
    tolerance : float
        How far the sum may be from that of the own units, as a share of it.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray
        Shape (count, K), each set in rising order.
    """
    size, others = len(own), np.setdiff1d(np.arange(len(energy)), own)
    if count > comb(len(others), size):
        raise ValueError(f"{len(others)} units have fewer than {count} sets of {size}")
    found: dict[frozenset, None] = {}
    wanted = energy[list(own)].sum()
    for _ in range(count):
        order = rng.permutation(others)  # the first of them are the set
        while frozenset(order[:size]) in found:
            order = rng.permutation(others)
        gap = energy[order[:size]].sum() - wanted
        while abs(gap) > tolerance * wanted:
            change = energy[order[size:]] - energy[order[:size], None]
            for leaving, entering in rng.permutation(np.argwhere(abs(gap + change) < abs(gap))):
                swapped = order.copy()
                swapped[[leaving, size + entering]] = order[[size + entering, leaving]]
                if frozenset(swapped[:size]) not in found:
                    order, gap = swapped, gap + change[leaving, entering]
                    break
            else:
                break
        found[frozenset(order[:size])] = None
    return np.array([sorted(units) for units in found], int).reshape(count, size)
