"""Confidence sequences: intervals that hold at every look at once, so that a study may stop when it is precise enough.

A confidence interval may be looked at once. Who looks after every chunk of latents and stops when the interval excludes 0, or is
narrow, has another error than the stated one. A confidence sequence ``C_1, C_2, ...`` covers the truth at *all* sizes together
with the stated probability, so that the size may be chosen by looking.
"""

import numpy as np
from scipy.special import betaln

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


def share_at_most(
    carriers: np.ndarray | float, n: np.ndarray | float, level: float = 0.95, tuned: int = TUNED
) -> np.ndarray:
    """Upper end of a confidence sequence of a share: what none or few of the latents have shown yet, most of them do not have.

    Robbins' method of mixtures for a Bernoulli share ("Statistical methods related to the law of the iterated logarithm", 1970):
    for the true share p the likelihood ratio of a Beta(1, tuned) mixture to it::

        B(carriers + 1, n - carriers + tuned) / B(1, tuned) / (p^carriers (1 - p)^(n - carriers))

    is a martingale that starts at 1, and exceeds ``1 / (1 - level)`` at some size with probability ``1 - level`` at most (Ville). No
    normal limit is taken, so that it holds where `half_width` says nothing.

    Latents may count for less than one, and have it in part. With weights w and parts k in [0, 1], ``n = sum w`` and ``carriers = sum
    w k``, the ratio is a supermartingale for ``p = E[w k] / E[w]``, since geometric means are at most arithmetic ones: ``s^(w k)
    t^(w (1 - k)) <= w k s + w (1 - k) t + 1 - w``.

    Parameters
    ----------
    carriers, n
        Summed weights of what has it, and of all.
    level
        Probability with which all sizes are covered, above 0 and below 1.
    tuned
        The larger, the narrower where hardly any latent has it.

    Returns
    -------
    numpy.ndarray
        In 0 .. 1, at least ``carriers / n``; without carriers ``1 - ((1 - level) tuned / (n + tuned))^(1 / n)``.
    """
    carriers, n = (np.asarray(count, np.float64) for count in np.broadcast_arrays(carriers, n))
    enough = -np.log(1 - level) - betaln(carriers + 1, n - carriers + tuned) + betaln(1, tuned)
    low, high = np.where(n > 0, carriers / np.maximum(n, 1e-300), 0.0), np.ones(n.shape)
    for _ in range(60):
        middle = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            beyond = -carriers * np.log(middle) - (n - carriers) * np.log1p(-middle) >= enough
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return high
