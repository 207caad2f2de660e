"""Which units have the largest ACE on each target, from first-order effects and as few ablations as settle it.

A unit's ACE is the mean over latents of its drops, the losses of area to its ablation alone. A drop is measured, at the
price of an image, or predicted from its first-order effect. While it is uncertain which ACEs of a target are the k
largest, the units in doubt are ablated on more latents, until no more than a small share of the summed ACE can be
missed. Arrays only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

SHARE = 0.98  # of the sum of the k largest ACEs, what the chosen units carry at least
CONFIDENCE = 0.95  # that they do, for all targets together
DRAWS = 1000  # of all ACEs, from what is known of them
BETWEEN = 0.1  # a unit is in doubt if its chance to be among the k largest lies between this and one minus this
FIRST, STEP = 2, 4  # latents on which a unit is ablated at first, and again each time it is in doubt
CANDIDATES = 1.5  # times k, of largest first-order effect, are ablated at first
BELIEF = 10.0  # measurements that the belief that slopes and `phi` are 1 counts as


class Prediction(NamedTuple):
    """What is known of the ACEs on some classes."""

    expected: np.ndarray  # (n, units, classes): drops as measured, or predicted
    ace: np.ndarray  # (units, classes)
    error: np.ndarray  # (units, classes): the ACE's standard deviation, given these latents and what was measured
    variance: np.ndarray  # (n, units, classes): of the drops that were not measured; 0 for the others


def predict(first: np.ndarray, drop: np.ndarray, shown: np.ndarray) -> Prediction:
    """Predict the drops that were not measured.

    For each class, a drop is `b+ max(f, 0) + b- min(f, 0)` of its first-order effect `f`, up to an error of variance
    `phi (f^2 + s) / 2`, where `s` is the unit's mean of `f^2` over the latents that show the class. The slopes are
    fitted by weighted least squares to what was measured, and `phi` is the errors' mean square in units of that
    variance; both are drawn towards 1 as by `BELIEF` measurements. Where the errors of one unit add up to more than
    independent ones would, the ACE's variance is larger by as much (the overdispersion of a quasi-likelihood). A class
    that is not there cannot be lost.

    `first` and `drop`, which is NaN where it was not measured, are (n, units, classes); `shown` (n, classes) says
    whether the unedited image shows the class.
    """
    n = len(first)
    measured = np.isfinite(drop)
    known = measured & shown[:, None, :]
    square = np.square(first, dtype=np.float64)
    spread = square.sum(axis=0) / np.maximum(shown.sum(axis=0), 1)
    size = np.where(shown[:, None, :], (square + spread) / 2, 0)
    expected = np.where(measured, drop, 0).astype(np.float64)
    error = np.empty(first.shape[1:])
    for c in range(first.shape[2]):
        here, sides = known[..., c], np.stack([np.maximum(first[..., c], 0), np.minimum(first[..., c], 0)], axis=-1)
        weight = np.divide(1, size[..., c], out=np.zeros_like(size[..., c]), where=size[..., c] > 0)
        x, y, w = sides[here], drop[..., c][here].astype(np.float64), weight[here]
        slopes = np.linalg.solve((x.T * w) @ x + BELIEF * np.eye(2), (x.T * w) @ y + BELIEF)
        residual = np.where(here, expected[..., c] - sides @ slopes, 0)
        size[..., c] *= ((w * residual[here] ** 2).sum() + BELIEF) / (len(w) + BELIEF)
        seen = (size[..., c] * here).sum(axis=0)
        units = seen > 0
        dispersion = max(1.0, (residual.sum(axis=0)[units] ** 2 / seen[units]).mean()) if units.any() else 1.0
        missing = shown[:, None, c] & ~measured[..., c]
        expected[..., c] = np.where(missing, sides @ slopes, expected[..., c])
        error[:, c] = np.sqrt(dispersion * (size[..., c] * missing).sum(axis=0)) / n
    return Prediction(expected, expected.mean(axis=0), error, np.where(measured, 0, size))


def doubts(known: Prediction, count: int) -> tuple[np.ndarray, np.ndarray]:
    """How certain the `count` units of largest ACE are, by draws from independent normal distributions of the ACEs.

    Returns the share of the sum of the largest ACEs that the chosen units miss at most (classes,), with `CONFIDENCE`
    for all classes together (Bonferroni), and the probability of each unit to be among the largest (units, classes).
    """
    units, classes = known.ace.shape
    drawn = known.ace.T[:, None, :] + known.error.T[:, None, :] * _noise(classes, units)
    among = drawn >= np.partition(drawn, units - count, axis=2)[..., units - count, None]
    best = np.where(among, drawn, 0).sum(axis=2)
    chosen = np.argsort(-known.ace, axis=0, kind="stable")[:count].T
    chosen_sum = np.take_along_axis(drawn, chosen[:, None, :], axis=2).sum(axis=2)
    missed = np.divide(best - chosen_sum, best, out=np.zeros_like(best), where=best > 0)
    return np.quantile(missed, 1 - (1 - CONFIDENCE) / classes, axis=1), among.mean(axis=1).T


@lru_cache(1)
def _noise(classes: int, units: int) -> np.ndarray:
    """The same draws from the standard normal distribution in every round: (classes, DRAWS, units)."""
    return np.random.default_rng(0).standard_normal((classes, DRAWS, units))


def screen(
    first: np.ndarray,
    shown: np.ndarray,
    targets: np.ndarray,
    count: int,
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray],
    on_settled: Callable[[int], None] = lambda targets: None,
) -> np.ndarray:
    """Measure drops until the `count` units of largest ACE on each target are settled.

    `first` (n, units, classes) are first-order effects, `shown` is (n, classes), and `targets` says which of the
    classes are to be settled. `measure` is given latents and units, two int arrays (pairs,), and returns the drops
    (pairs, classes); `on_settled` is called with the number of targets settled since the last call. Returns the drops
    (n, units, classes), float32, NaN where they were not measured.
    """
    n, units, _ = first.shape
    drop = np.full(first.shape, np.nan, np.float32)
    wanted = np.zeros((n, units), bool)
    for target in targets:
        order = np.argsort(-first[..., target].mean(axis=0), kind="stable")[: round(CANDIDATES * count)]
        wanted[np.ix_(np.flatnonzero(shown[:, target])[:FIRST], order)] = True
    settled = 0
    while wanted.any():
        latent, unit = np.nonzero(wanted)
        drop[latent, unit] = measure(latent, unit)
        known = predict(first[..., targets], drop[..., targets], shown[:, targets])
        missed, chance = doubts(known, count)
        open_targets = missed > 1 - SHARE
        if (now := int((~open_targets).sum())) > settled:
            on_settled(now - settled)
            settled = now
        unknown = (known.variance > 0).any(axis=0)
        doubtful = open_targets & unknown & (chance > BETWEEN) & (chance < 1 - BETWEEN)
        # Where no unit is that much in doubt, all units in any doubt are.
        doubtful |= (open_targets & ~doubtful.any(axis=0)) & unknown & (chance > 0) & (chance < 1)
        whole = np.maximum(np.sort(known.ace, axis=0)[-count:].sum(axis=0), 1e-12)
        # What is uncertain of a drop, relative to the ACE at stake, over the targets for which the unit is in doubt.
        stake = np.where(doubtful, known.variance / whole**2, 0).sum(axis=2)
        largest = np.argsort(-stake, axis=0, kind="stable")[:STEP]
        wanted = np.zeros((n, units), bool)
        np.put_along_axis(wanted, largest, np.take_along_axis(stake, largest, axis=0) > 0, axis=0)
    on_settled(len(targets) - settled)
    return drop
