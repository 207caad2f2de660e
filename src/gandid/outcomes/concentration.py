"""How the units share an object: concentration of positive ACE over the units of a layer, and overlap of two objects.

Each function takes ACE with the units on the last axis, of any scale; only its positive part counts, since a unit that an
object grows without does not make the object. Where no unit has a positive ACE there is nothing to be shared, and the value is
NaN.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def positive(ace: npt.ArrayLike) -> np.ndarray:
    """The positive part of ACE (..., units) as shares that sum to 1 over the units; NaN where no unit has any."""
    part = np.clip(np.asarray(ace, np.float64), 0, None)
    # Scaled by the largest first: sums of squares of very small or very large effects stay in range.
    largest = part.max(axis=-1, keepdims=True, initial=0)
    part = np.divide(part, largest, out=np.full_like(part, np.nan), where=largest > 0)
    return part / part.sum(axis=-1, keepdims=True)


def share(ace: npt.ArrayLike, units: npt.ArrayLike) -> np.ndarray:
    """Share of the positive ACE that some units carry, in [0, 1]; ACE of shape (..., units) gives shape (...)."""
    return positive(ace)[..., np.asarray(units, int)].sum(axis=-1)


def gini(ace: npt.ArrayLike) -> np.ndarray:
    """Gini coefficient of the positive ACE over all units, in [0, 1 - 1/units]; shape (...).

    Half the mean absolute difference of two units, in units of the mean: 0 where all carry the same, 1 - 1/units where one
    carries all. Computed from the sorted values (Sen, *On Economic Inequality*, 1973, section 2.6).
    """
    part = np.sort(positive(ace), axis=-1)
    n = part.shape[-1]
    weights = (2 * np.arange(1, n + 1) - n - 1) / n
    return np.maximum(part @ weights, 0)  # rounding may leave equal shares below 0


def effective_units(ace: npt.ArrayLike) -> np.ndarray:
    """How many units of equal ACE would be as concentrated, ``(sum a)^2 / sum a^2`` of the positive part; shape (...).

    In [1, units]; the inverse of the Herfindahl-Hirschman index, known as the inverse participation ratio in physics.
    """
    return 1 / np.square(positive(ace)).sum(axis=-1)


def overlap(ace: npt.ArrayLike, other: npt.ArrayLike) -> np.ndarray:
    """Cosine of the positive ACE of two objects over the same units, in [0, 1]; shape (...), the arguments broadcast.

    0 where they share no unit, 1 where their units carry them in the same proportions.
    """
    one, two = positive(ace), positive(other)
    lengths = np.sqrt(np.square(one).sum(axis=-1) * np.square(two).sum(axis=-1))
    return np.minimum((one * two).sum(axis=-1) / lengths, 1)
