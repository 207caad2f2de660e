"""Confidence sequences: intervals that hold at every look at once, so that a study may stop when it is precise enough.

A confidence interval may be looked at once. Who looks after every chunk of latents and stops when the interval excludes 0, or is
narrow, has another error than the stated one. A confidence sequence ``C_1, C_2, ...`` covers the truth at *all* sizes together
with the stated probability, so that the size may be chosen by looking.
"""

import numpy as np

from gandid.did.inference import CARRIED

TUNED = 512  # latents at which the sequences of a study are narrowest: its default size


def boundary(n: np.ndarray | int, level: float = 0.95, tuned: int = TUNED) -> np.ndarray:
    """Half-width of an asymptotic confidence sequence, in standard errors.

    The normal mixture boundary (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and
    asymptotic confidence sequences", 2021, theorem 2.2)::

        sqrt(2 (n rho^2 + 1) / (n rho^2) * log(sqrt(n rho^2 + 1) / (1 - level)))

    with ``rho`` such that it is narrowest at `tuned` (their appendix on choosing rho)::

        rho^2 = (-2 log a + log(-2 log a + 1)) / tuned,  a = 1 - level

    For estimators that are asymptotically linear, as ratios of sums are, the same holds with their influence values.

    Parameters
    ----------
    n
        Latents that inform the estimate; at least 1.
    level
        Probability with which the whole sequence covers, above 0 and below 1.
    tuned
        Latents at which it is narrowest.

    Returns
    -------
    numpy.ndarray
        Of the shape of `n`; about 3 at `tuned` for 95 %, where a single interval has 1.96.
    """
    alpha = 1 - level
    log = -2 * np.log(alpha)
    spread = np.asarray(n, np.float64) * (log + np.log(log + 1)) / tuned
    return np.sqrt(2 * (spread + 1) / spread * np.log(np.sqrt(spread + 1) / alpha))


def half_width(
    se: np.ndarray, n: np.ndarray | int, carried: np.ndarray | int, level: float = 0.95, tuned: int = TUNED
) -> np.ndarray:
    """Half-width of the confidence sequence of an estimate.

    The guarantee is asymptotic, and what counts is not how many latents inform an estimate but how many *carry* it: a class that
    no image has shown yet has error 0. Below `CARRIED` of them the sequence covers everything.

    Parameters
    ----------
    se
        Standard error.
    n
        Latents that inform it.
    carried
        Latents in which the two arms differ.
    level, tuned
        As in `boundary`.

    Returns
    -------
    numpy.ndarray
        In the unit of `se`; infinite below `CARRIED`, NaN where `se` is.
    """
    wide = np.asarray(se, np.float64) * boundary(np.maximum(n, 1), level, tuned)
    return np.where(np.isnan(wide) | (np.asarray(carried) >= CARRIED), wide, np.inf)
