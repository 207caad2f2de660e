"""Power: the smallest effect that a study of this size could have seen."""

import numpy as np
from scipy import stats

POWER = 0.8


def smallest_effect(se: np.ndarray, n: np.ndarray | int, level: float = 0.95, power: float = POWER) -> np.ndarray:
    """The effect that a two-sided t test at level ``1 - level`` finds with probability `power`.

    The minimum detectable effect of Bloom 1995, ``(t_{(1 + level) / 2} + t_power) se`` with n - 1 degrees of freedom: it comes
    from the error alone, so it does not depend on what was found (unlike "observed power", which restates p).

    Parameters
    ----------
    se
        Standard error.
    n
        Latents that inform it.
    level, power
        Shares, above 0 and below 1.

    Returns
    -------
    numpy.ndarray
        In the unit of `se`; NaN below two latents.
    """
    degrees = np.where(np.asarray(n) > 1, np.asarray(n, np.float64) - 1, np.nan)
    return (stats.t.ppf((1 + level) / 2, degrees) + stats.t.ppf(power, degrees)) * np.asarray(se)
