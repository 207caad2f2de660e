"""Statistics on arrays: intervals, bootstrap, sign flips, multiplicity and confidence sequences.

Nothing here knows what a panel is. What scipy or statsmodels have is theirs; what is written here are the forms that are needed with
draws that all columns share, so that differences of columns stay paired.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import scipy  # its parts are loaded when they are first used: the page shows its first picture without them

# Random draws handled at a time: the block of signs or weights stays some megabytes.
BLOCK = 512
# Two sums count as equal if they differ by less than this share of the sum of absolute values: counts tie often, and rounding must
# neither break ties at random nor pass for a small effect.
TIE = 1e-9
CARRIERS = 30  # latents that must carry an effect before the normal limit is trusted (docs/calibration.md)
POWER = 0.8
TUNED = 512  # latents at which confidence sequences are narrowest: the default size of a study


class Interval(NamedTuple):
    """A t interval and the two-sided p-value of the value 0."""

    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def t_interval(
    value: np.ndarray,
    se: np.ndarray,
    n: np.ndarray | int,
    carriers: np.ndarray | float,
    level: float | np.ndarray = 0.95,
) -> Interval:
    """The t interval of an estimate from independent latents.

    It has ``n - 1`` degrees of freedom, but ``carriers - 1`` where fewer than `CARRIERS` latents carry the estimate: an error that
    seven of 200 latents make is known as badly as seven latents can tell (docs/calibration.md).

    Parameters
    ----------
    value, se
        Estimates and standard errors, which broadcast against the rest.
    n
        Latents that inform each.
    carriers
        Latents that carry each; infinity if all do.
    level
        Coverage, above 0 and below 1.

    Returns
    -------
    Interval
        Infinite with a single carrier; of width 0 where `se` is 0 (then p is 1 if the value is 0 too, else 0); NaN where `se` is.
    """
    degrees, certain = _degrees(n, carriers), se == 0
    quantile = np.where(degrees > 0, scipy.stats.t.ppf((1 + level) / 2, np.maximum(degrees, 1)), np.inf)
    half = np.where(certain, 0.0, quantile * np.where(certain, 1.0, se))
    t = np.abs(value) / np.where(certain, 1.0, se)
    p = np.where(degrees > 0, 2 * scipy.stats.t.sf(t, np.maximum(degrees, 1)), 1.0)
    p = np.where(certain, np.where(value == 0, 1.0, 0.0), p)
    return Interval(value - half, value + half, np.where(np.isnan(se), np.nan, p))


def _degrees(n: np.ndarray | int, carriers: np.ndarray | float) -> np.ndarray:
    """Degrees of freedom: ``n - 1``, but ``carriers - 1`` where fewer than `CARRIERS` latents carry an estimate; at least 0."""
    return np.maximum(np.where(np.asarray(carriers) < CARRIERS, carriers, n) - 1, 0)


def identified_interval(
    low: np.ndarray,
    high: np.ndarray,
    se: tuple[np.ndarray, np.ndarray],
    n: np.ndarray | int,
    carriers: np.ndarray | float,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """The interval of an effect of which only bounds are identified (Imbens and Manski 2004).

    It covers the effect wherever it lies between its bounds: ``[low - c se_low, high + c se_high]``, with c
    from ``F(c + (high - low) / max(se_low, se_high)) - F(-c) = level``: two-sided where the bounds meet, one-sided where they are far apart.

    Parameters
    ----------
    low, high
        Estimates of the bounds.
    se
        Their standard errors.
    n, carriers, level
        As in `t_interval`.

    Returns
    -------
    low, high : numpy.ndarray
        Infinite with a single carrier, NaN where `se` is.
    """
    degrees, error = _degrees(n, carriers), np.fmax(*se)
    some, apart = np.maximum(degrees, 1), (high - low) / np.where(error == 0, 1.0, error)
    least, most = (np.broadcast_to(scipy.stats.t.ppf(p, some), apart.shape) for p in (level, (1 + level) / 2))
    for _ in range(40):
        middle = (least + most) / 2
        enough = scipy.stats.t.cdf(middle + apart, some) - scipy.stats.t.cdf(-middle, some) >= level
        least, most = np.where(enough, least, middle), np.where(enough, middle, most)
    reach = np.where(degrees > 0, most, np.inf)
    down, up = (np.where(one == 0, 0.0, reach * np.where(one == 0, 1.0, one)) for one in se)
    return low - down, high + up


def weighted_sum(weights: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Sums of weighted terms, (W, J) and (..., J, K) -> (..., W, K), with 0 where they cancel up to rounding."""
    total, size = np.matmul(weights, terms), np.matmul(np.abs(weights), np.abs(terms))
    return np.where(np.abs(total) <= TIE * size, 0.0, total)


def bootstrap(numerators: np.ndarray, denominators: np.ndarray, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Ratios of sums under resampling of rows with replacement (Efron 1979).

    Parameters
    ----------
    numerators, denominators
        Shape (N, K), one column per ratio; all columns share the resamples. Rows may be sums over groups of latents: groups of
        independent latents are independent too.
    resamples, seed
        Number of resamples B, and the random seed.

    Returns
    -------
    numpy.ndarray
        Shape (B, K); NaN in resamples whose denominators sum to 0.
    """
    above, below = (
        resampled_sums(values, resamples, seed)[1:] for values in np.broadcast_arrays(numerators, denominators)
    )
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def resampled_sums(values: np.ndarray, resamples: int = 500, seed: int = 0) -> np.ndarray:
    """Sums over rows of (N, K), and under resampling of the rows with replacement: (1 + B, K), the first that of all rows."""
    times = np.ones((1 + resamples, len(values)))
    times[1:] = _times(len(values), resamples, seed) if len(values) else 0
    return times @ np.asarray(values, np.float64)


def permutation(values: np.ndarray, flips: int = 9999, seed: int = 0) -> np.ndarray:
    """Two-sided sign-flip p-values of "the mean is 0" (Fisher 1935; Phipson and Smyth 2010 for the + 1).

    Exact if the values are symmetric about 0 under the null hypothesis, which a difference of two arms of the same latents is when the
    arms are exchangeable. Zeros do not count. Rows may be sums over groups of latents: flips of whole groups are a subgroup of all
    flips, under which the test is as exact (Hemerik and Goeman 2018).

    Parameters
    ----------
    values
        Shape (N, K); NaN columns give NaN. All columns share the signs.
    flips, seed
        Number of random sign vectors, and the random seed; the smallest p-value is ``1 / (flips + 1)``.

    Returns
    -------
    numpy.ndarray
        Shape (K,), in (0, 1]; 1 where all values are 0.
    """
    values = np.asarray(values, np.float64)
    size = np.abs(values).sum(0)
    p = np.where(np.isnan(size), np.nan, 1.0)
    # Most pairs of classes never meet; their columns are 0 and need no draw.
    tested = size > 0
    values, size = values[:, tested], size[tested]
    reached = np.abs(values.sum(0)) - TIE * size
    if not tested.any():
        return p
    hits = np.zeros(len(size))
    drawn = _signs(len(values), flips, seed)
    for start in range(0, flips, BLOCK):
        signs = drawn[start : start + BLOCK].astype(np.float64)
        hits += (np.abs(signs @ values) >= reached).sum(0)
    p[tested] = (hits + 1) / (flips + 1)
    return p


# The draws are the same for every target of a panel; they are made once, as small as they can be.


@lru_cache(maxsize=1)
def _times(n: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of n rows is drawn in each resample, (resamples, n)."""
    rng = np.random.default_rng(seed)
    times = np.empty((resamples, n), np.int16)
    for start in range(0, resamples, BLOCK):
        times[start : start + BLOCK] = rng.multinomial(n, np.full(n, 1 / n), size=min(BLOCK, resamples - start))
    return times


@lru_cache(maxsize=1)
def _signs(n: int, flips: int, seed: int) -> np.ndarray:
    """Random signs, (flips, n)."""
    rng = np.random.default_rng(seed)
    signs = np.empty((flips, n), np.int8)
    for start in range(0, flips, BLOCK):
        signs[start : start + BLOCK] = rng.integers(0, 2, (min(BLOCK, flips - start), n)) * 2 - 1
    return signs


def max_t(influences: np.ndarray, degrees: float, level: float = 0.95) -> float:
    """The quantile of the largest of several t values that are computed from the same latents (Hothorn, Bretz and Westfall 2008).

    Parameters
    ----------
    influences
        Of each latent or group on each estimate, (N, S); an estimate's standard error is the root of their sum of squares.
    degrees
        Degrees of freedom; infinite below 1.
    level
        The probability with which all S estimates lie within so many standard errors of their truths.
    """
    if degrees < 1:
        return np.inf
    values, axes = np.linalg.eigh(np.corrcoef(influences.T).reshape(influences.shape[1], -1))
    rng, draws = np.random.default_rng(0), 10_000
    normal = rng.standard_normal((draws, len(values))) @ (axes * np.sqrt(np.maximum(values, 0))).T
    largest = np.abs(normal).max(axis=1) / np.sqrt(rng.chisquare(degrees, draws) / degrees)
    return float(np.quantile(largest, level))


def false_discovery(p: np.ndarray) -> np.ndarray:
    """Benjamini-Yekutieli q-values (2001) of one family; NaN stands for what was not tested and does not count.

    They hold however the tests depend on one another. Shares of one hole sum to 1 and depend negatively, for which the smaller values of
    Benjamini and Hochberg (1995) are not assured.
    """
    p = np.asarray(p, np.float64)
    q = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    if tested.any():
        from statsmodels.stats.multitest import multipletests  # it takes a second

        q[tested] = multipletests(p[tested], method="fdr_by")[1]
    return q


def bonferroni(errors: float, comparisons: int) -> float:
    """The bound that several comparisons together pass as rarely as one passes `errors` standard errors."""
    return float(scipy.stats.norm.isf(scipy.stats.norm.sf(errors) / comparisons))


def signed_z(value: np.ndarray, p: np.ndarray) -> np.ndarray:
    """An estimate in its own standard errors, as the normal quantile of the same two-sided p-value; 0 where it is certainly 0."""
    return np.sign(value) * scipy.stats.norm.isf(np.maximum(p, 1e-300) / 2)


def welch_z(gap: np.ndarray, variances: tuple[np.ndarray, np.ndarray], n: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Welch's t of a difference of two estimates (their squared errors, their sizes), as the z of the same tail probability."""
    spread = [np.sqrt(variance * size) for variance, size in zip(variances, n, strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):
        p = scipy.stats.ttest_ind_from_stats(np.abs(gap), spread[0], n[0], 0, spread[1], n[1], equal_var=False).pvalue
    z = scipy.stats.norm.isf(np.maximum(p / 2, 1e-300))
    return np.where(variances[0] + variances[1] > 0, z, np.where(np.abs(gap) <= 1e-12, 0.0, np.inf))


def detectable(
    se: np.ndarray, n: np.ndarray | int, carriers: np.ndarray | float = np.inf, level: float = 0.95
) -> np.ndarray:
    """The effect that a two-sided t test at level ``1 - level`` finds with probability `POWER`, in the unit of `se`.

    The minimum detectable effect of Bloom 1995, ``(t_{(1 + level) / 2} + t_power) se`` with the degrees of freedom of `t_interval`: it
    comes from the error alone, so that it does not depend on what was found. Where nothing differed in n latents, what differs in
    fewer than 3 / n of them cannot be told from nothing (rule of three, of shares at a level of 95 %). NaN below two latents.
    """
    degrees = _degrees(n, carriers)
    quantiles = sum(scipy.stats.t.ppf(share, np.maximum(degrees, 1)) for share in ((1 + level) / 2, POWER))
    found = np.where(degrees > 0, quantiles, np.inf) * np.where(np.asarray(se) == 0, 1.0, se)
    found = np.where(np.asarray(se) == 0, np.minimum(3 / np.maximum(n, 1), 1.0), found)
    return np.where(np.asarray(n) > 1, found, np.nan)


def boundary(n: np.ndarray | int, level: float = 0.95, tuned: int = TUNED) -> np.ndarray:
    """Half-width of an asymptotic confidence sequence, in standard errors.

    A confidence sequence covers the truth at *all* sizes together with probability `level`, so that a study may look at it and stop.
    This is the normal mixture boundary (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and
    asymptotic confidence sequences", 2021, theorem 2.2)::

        sqrt(2 (n rho^2 + 1) / (n rho^2) * log(sqrt(n rho^2 + 1) / (1 - level)))

    with ``rho^2 = (-2 log a + log(-2 log a + 1)) / tuned``, ``a = 1 - level``, so that it is narrowest at `tuned` latents.

    Parameters
    ----------
    n
        Latents that inform the estimate, at least 1.
    level, tuned
        Coverage of the whole sequence, and the size at which it is narrowest.
    """
    alpha = 1 - level
    log = -2 * np.log(alpha)
    spread = np.asarray(n, np.float64) * (log + np.log(log + 1)) / tuned
    return np.sqrt(2 * (spread + 1) / spread * np.log(np.sqrt(spread + 1) / alpha))


def sequence_half_width(
    se: np.ndarray, n: np.ndarray | int, carriers: np.ndarray | int, level: float = 0.95
) -> np.ndarray:
    """Half-width of the confidence sequence of an estimate, in the unit of `se`.

    The guarantee is asymptotic in the latents that *carry* the estimate; below `CARRIERS` of them the sequence covers everything.
    """
    wide = np.asarray(se, np.float64) * boundary(np.maximum(n, 1), level)
    return np.where(np.isnan(wide) | (np.asarray(carriers) >= CARRIERS), wide, np.inf)


def share_at_most(carriers: np.ndarray | float, n: np.ndarray | float, level: float = 0.95) -> np.ndarray:
    """Upper end of a confidence sequence of a share: what few of the latents have shown yet, most of them do not have.

    Robbins' method of mixtures for a Bernoulli share ("Statistical methods related to the law of the iterated logarithm", 1970): the
    likelihood ratio of a Beta(1, `TUNED`) mixture to the true share is a martingale that starts at 1 and exceeds ``1 / (1 - level)`` at
    some size with probability ``1 - level`` at most (Ville). No normal limit is taken. Latents may count for less than one, and have it
    in part: with weights w and parts k in [0, 1], ``n = sum w`` and ``carriers = sum w k``, the ratio is a supermartingale for ``p =
    E[w k] / E[w]``, since geometric means are at most arithmetic ones.

    Parameters
    ----------
    carriers, n
        Summed weights of what has it, and of all.
    level
        Coverage at all sizes together.

    Returns
    -------
    numpy.ndarray
        In 0 .. 1, at least ``carriers / n``; without carriers ``1 - ((1 - level) T / (n + T))^(1 / n)``, T for `TUNED`.
    """
    carriers, n = (np.asarray(count, np.float64) for count in np.broadcast_arrays(carriers, n))
    enough = (
        -np.log(1 - level) - scipy.special.betaln(carriers + 1, n - carriers + TUNED) + scipy.special.betaln(1, TUNED)
    )
    low, high = np.where(n > 0, carriers / np.maximum(n, 1e-300), 0.0), np.ones(n.shape)
    for _ in range(60):
        middle = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            beyond = -carriers * np.log(middle) - (n - carriers) * np.log1p(-middle) >= enough
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return high


class Networks(NamedTuple):
    """Random effects over networks (`random_effects`)."""

    mean: float
    se: float
    """Of the mean, after Hartung and Knapp."""
    low: float
    high: float
    """The interval of the mean."""
    tau: float
    """Standard deviation between networks."""


def random_effects(values: np.ndarray, se: np.ndarray, level: float = 0.95) -> Networks:
    """The mean of an effect over K networks that are draws of one training, ``y_k = mu + u_k + e_k`` with ``u_k ~ (0, tau^2)``.

    tau is that of Paule and Mandel (1982), the interval of the mean that of Hartung and Knapp (2001), with K - 1 degrees of freedom and
    their scale at least 1 (Knapp and Hartung 2003), without which it is too narrow where networks happen to agree; both are statsmodels'
    (`combine_effects`).

    Parameters
    ----------
    values, se
        The effect of each network and its standard error over latents, (K,).
    level
        Coverage of the interval.

    Returns
    -------
    Networks
        NaN but for the mean of a single network; NaN where a value is.
    """
    values, se = np.asarray(values, np.float64), np.asarray(se, np.float64)
    if len(values) < 2 or not np.isfinite(values + se).all():
        return Networks(float(values.mean()), *(np.nan,) * 4)
    quantile = scipy.stats.t.ppf((1 + level) / 2, len(values) - 1)
    if np.ptp(values) <= TIE:  # nothing to iterate on: what the latents leave open is left
        mean, error = float(values.mean()), float((se**-2.0).sum() ** -0.5) if se.all() else 0.0
        return Networks(mean, error, mean - quantile * error, mean + quantile * error, 0.0)
    # An effect that is the same for every latent has no error of its own: it weighs as one that is known very well.
    from statsmodels.stats.meta_analysis import combine_effects  # it takes a second

    found = combine_effects(values, np.maximum(se, 1e-3 * np.ptp(values)) ** 2, method_re="iterated", use_t=True)
    error = max(float(found.sd_eff_w_re_hksj), float(found.sd_eff_w_re))  # never below what the latents leave open
    mean = float(found.mean_effect_re)
    return Networks(mean, error, mean - quantile * error, mean + quantile * error, float(np.sqrt(max(found.tau2, 0.0))))


def prediction(networks: Networks, count: int, se: float = 0.0, level: float = 0.95) -> tuple[float, float]:
    """Standard error and half-width of the next network's effect about the mean of `count`: ``t_{K-2} sqrt(tau^2 + se(mu)^2)``.

    Higgins, Thompson and Spiegelhalter (2009). `se` is what the next network's own effect is known to. NaN below three networks. It covers
    less often than it says where the networks' own errors are larger than their spread (91 % of 95 % with five of them).
    """
    if count < 3:
        return np.nan, np.nan
    error = float(np.sqrt(networks.tau**2 + networks.se**2 + se**2))
    return error, float(scipy.stats.t.ppf((1 + level) / 2, count - 2) * error)


def difference(sides: Sequence[tuple[Networks, int]], level: float = 0.95) -> tuple[Networks, tuple[float, float]]:
    """The first group of networks' mean less the other's, or one group's mean alone; and what the next pair's may be.

    Degrees of freedom of the interval are Welch's; `tau` is that of a pair, and `prediction` has the fewest degrees of either.

    Parameters
    ----------
    sides
        One or two groups, each with its number of networks.
    level
        Coverage of both intervals.

    Returns
    -------
    Networks, (float, float)
        With standard error and half-width of the prediction.
    """
    groups, counts = zip(*sides, strict=True)
    squares = np.array([group.se**2 for group in groups])
    se, tau = float(np.sqrt(squares.sum())), float(np.hypot.reduce([group.tau for group in groups]))
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = squares.sum() ** 2 / (squares**2 / (np.array(counts) - 1)).sum()
    half = float(scipy.stats.t.ppf((1 + level) / 2, degrees) * se) if se > 0 else se
    mean = float(np.subtract.reduce([group.mean for group in groups]))
    found = Networks(mean, se, mean - half, mean + half, tau)
    return found, prediction(found, min(counts), level=level)
