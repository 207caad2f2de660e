"""Errors, intervals and p-values: pure functions on arrays, latents on the first axis.

Latents are independent draws and each is its own control, so that every estimate is a mean over latents of
some per-latent value, exactly (mean outcomes) or to first order (ratios of sums).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

# Random draws handled at a time: the block of signs or weights stays some megabytes.
BLOCK = 512
# Two sums count as equal if they differ by less than this share of the sum of absolute values: sign flips of
# counts tie often, and rounding must not break ties at random.
TIE = 1e-9
CARRIED = 30  # latents that must carry an effect before the normal limit is trusted (docs/calibration.md)


class Estimate(NamedTuple):
    """An estimate with its error; every field has the shape of the trailing axes of the data."""

    value: np.ndarray
    se: np.ndarray
    """Standard error; NaN below two latents."""
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    """Two-sided p-value of the t test of value 0; 1 where value and se are both 0."""
    n: int
    """Latents that inform the estimate."""


def mean_effect(delta: np.ndarray, level: float = 0.95, carried: np.ndarray | None = None) -> Estimate:
    """Mean over latents, with standard error ``sd / sqrt(n)`` and a t interval with n - 1 degrees of freedom.

    With ``delta = (y11 - y01) - (y10 - y00)`` this is the coefficient of ``edit x live`` in the regression
    of ``y`` on edit, live, their product and a fixed effect per latent. Its CRV1 error, clustered by latent,
    is this one times ``sqrt((4n - 1) / (4n - n - 3))`` when the fixed effects count as parameters (as in a
    regression with one dummy per latent), times ``sqrt((4n - 1) / (4n - 4))`` when, nested in the clusters,
    they count as one (and 1 as n grows): the tests hold it against pyfixest.

    Parameters
    ----------
    delta
        Per-latent values, shape (n, ...).
    level
        Coverage of the interval.
    carried
        Latents that carry the effect, as in `ratio_from_sums`; all n by default.

    Returns
    -------
    Estimate
        Fields of shape ``delta.shape[1:]``; NaN where nothing can be said (n = 0; errors at n = 1).
    """
    delta = np.asarray(delta, np.float64)
    if len(delta) == 0:
        return _inform(np.full(delta.shape[1:], np.nan), delta.sum(0), 0, level)
    value = delta.mean(0)
    return _inform(value, ((delta - value) ** 2).sum(0), len(delta), level, carried)


def ratio_effect(
    numerator: np.ndarray,
    denominator: np.ndarray,
    held_numerator: np.ndarray | None = None,
    held_denominator: np.ndarray | None = None,
    level: float = 0.95,
    carried: np.ndarray | None = None,
) -> Estimate:
    """Ratio of sums over latents, or the difference of two such ratios, with delta-method errors.

    ``R = sum(a) / sum(b)`` has the influence values ``psi_i = (a_i - R b_i) / mean(b)`` (the linearized
    variance of a ratio estimator: Cochran, *Sampling Techniques*, 1977, section 6.4); a difference of ratios
    has the difference of theirs. The standard error is ``sd(psi) / sqrt(n)`` over the n latents whose
    denominator is not 0: adding latents that do not show the target changes nothing.

    Parameters
    ----------
    numerator, denominator
        Shapes (N, ...) and (N,): pixels.
    held_numerator, held_denominator
        The same of the arm that is subtracted; both or neither.
    level
        Coverage of the t interval with n - 1 degrees of freedom.
    carried
        Latents that carry the effect, as in `ratio_from_sums`; all n by default.

    Returns
    -------
    Estimate
        Fields of shape ``numerator.shape[1:]``.
    """
    informs = np.asarray(denominator) > 0
    if held_denominator is not None:
        informs = informs | (np.asarray(held_denominator) > 0)
    value, influence = linearize(np.asarray(numerator)[informs], np.asarray(denominator)[informs])
    if held_numerator is not None and held_denominator is not None:
        other = linearize(np.asarray(held_numerator)[informs], np.asarray(held_denominator)[informs])
        value, influence = value - other[0], influence - other[1]
    return _inform(value, (influence**2).sum(0), len(influence), level, carried)


def ratio_from_sums(
    sums: np.ndarray, products: np.ndarray, n: int, level: float = 0.95, carried: np.ndarray | None = None
) -> Estimate:
    """The same as `ratio_effect`, from sums of whole numbers over latents, without rounding up to the last division.

    With ``v`` the latent's vector of numerator and denominator (of two arms: live's, then held's), the influence value is
    ``w . v`` for a vector ``w`` that depends on the sums alone, so that the sum of its squares is ``w' M w``, with ``M`` the
    sums of products. As it stands this cancels badly; in Python's integers, which have no bounds, it is exact.

    Parameters
    ----------
    sums
        Sums of v over latents, integers of shape (2, K) or (4, K).
    products
        Sums of the products of v with itself, integers of shape (2, 2, K) or (4, 4, K).
    n
        Latents whose denominator is not 0 (in one of the arms).
    level
        Coverage of the t interval.
    carried
        Latents in which the two arms differ, (K,), all n by default. The interval has n - 1 degrees of freedom, but
        ``carried - 1`` where they are fewer than `CARRIED`: an error that seven of 200 latents make is known as badly as seven
        latents can tell, and with n - 1 degrees such intervals cover too rarely (docs/calibration.md).

    Returns
    -------
    Estimate
        Fields of shape (K,); NaN where a denominator sums to 0.
    """
    parts, matrix = np.asarray(sums, object), np.asarray(products, object)
    a, b = parts[:2]
    if not all(total > 0 for total in parts[1::2].ravel()):
        nothing = np.full(parts.shape[1:], np.nan)
        return Estimate(nothing, nothing, nothing, nothing, nothing, n)
    if len(parts) == 2:
        value, weights, scale = a / b, [b, -a], b * b
    else:
        c, d = parts[2:]
        value = (a * d - c * b) / (b * d)
        weights, scale = [b * d * d, -a * d * d, -b * b * d, b * b * c], b * b * d * d
    squares = sum(matrix[i, j] * weights[i] * weights[j] for i in range(len(parts)) for j in range(len(parts)))
    return _inform(value.astype(np.float64), (n * n * squares / (scale * scale)).astype(np.float64), n, level, carried)


def linearize(numerator: np.ndarray, denominator: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ratio of sums and its influence values, which have mean 0.

    Parameters
    ----------
    numerator, denominator
        Shapes (n, ...) and (n,).

    Returns
    -------
    value, influence
        Shapes ``numerator.shape[1:]`` and (n, ...); all NaN where the denominators sum to 0.
    """
    numerator = np.asarray(numerator, np.float64)
    denominator = np.asarray(denominator, np.float64)
    total = denominator.sum()
    if not total > 0:
        return np.full(numerator.shape[1:], np.nan), np.full(numerator.shape, np.nan)
    value = numerator.sum(0) / total
    weights = denominator.reshape(-1, *[1] * (numerator.ndim - 1))
    return value, (numerator - value * weights) * (len(denominator) / total)


def bootstrap(numerators: np.ndarray, denominators: np.ndarray, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Ratios of sums under resampling of latents with replacement (Efron 1979).

    All columns share the resamples, so that differences of columns are paired.

    Parameters
    ----------
    numerators, denominators
        Shape (N, K), one column per ratio; a mean is a ratio over ones. Rows may be sums over groups of latents: groups of
        independent latents are independent too.
    resamples
        Number of resamples B.
    seed
        Seed of the resampling.

    Returns
    -------
    numpy.ndarray
        Shape (B, K); NaN in resamples whose denominators sum to 0.
    """
    numerators, denominators = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    ratios = np.full((resamples, numerators.shape[1]), np.nan)
    if len(numerators) == 0:
        return ratios
    times = _times(len(numerators), resamples, seed)
    for start in range(0, resamples, BLOCK):
        counts = times[start : start + BLOCK].astype(np.float64)
        below = counts @ denominators
        np.divide(counts @ numerators, below, out=ratios[start : start + BLOCK], where=below > 0)
    return ratios


def permutation(values: np.ndarray, flips: int = 9999, seed: int = 0) -> np.ndarray:
    """Two-sided sign-flip p-values of "the mean is 0" (Fisher 1935; Phipson and Smyth 2010 for the + 1).

    Exact if the values are symmetric about 0 under the null hypothesis, which a difference of two arms of
    the same latents is when the arms are exchangeable. Zeros do not count: adding latents without effect
    changes the p-value by nothing but the draw of signs.

    Rows may be sums over groups of latents: flips of whole groups are a subgroup of all flips, under which the test is as
    exact (Hemerik and Goeman 2018, on tests by a subgroup of transformations).

    Parameters
    ----------
    values
        Per-latent values, shape (N, K); NaN columns give NaN.
    flips
        Number of random sign vectors; the smallest p-value is ``1 / (flips + 1)``. All columns share them.
    seed
        Seed of the signs.

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


def bh(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg q-values (1995) of one family of hypotheses.

    Parameters
    ----------
    p
        P-values, shape (K,); NaN stands for what was not tested and does not count.

    Returns
    -------
    numpy.ndarray
        Shape (K,); NaN where `p` is.
    """
    p = np.asarray(p, np.float64)
    q = np.full(p.shape, np.nan)
    tested = np.isfinite(p)
    if tested.any():
        q[tested] = multipletests(p[tested], method="fdr_bh")[1]
    return q


def _inform(
    value: np.ndarray, squares: np.ndarray, n: int, level: float, carried: np.ndarray | None = None
) -> Estimate:
    """An estimate from the sum of squares of its n influence values, which have mean 0; `carried` as in `ratio_from_sums`."""
    if n < 2:
        unknown = np.full(np.shape(value), np.nan)
        return Estimate(value, unknown, unknown, unknown, unknown, n)
    se = np.sqrt(squares / (n * (n - 1)))
    # Where every latent agrees, se is 0 up to the rounding of the mean, which must not pass for a tiny error.
    se = np.where(se <= 1e-12 * np.abs(value), 0.0, se)
    certain = se == 0
    degrees = np.maximum((n if carried is None else np.where(carried < CARRIED, carried, n)) - 1, 0)
    # One latent tells nothing of how much another would: its interval is everything.
    quantile = np.where(degrees > 0, stats.t.ppf((1 + level) / 2, np.maximum(degrees, 1)), np.inf)
    half = np.where(certain, 0.0, quantile * np.where(certain, 1.0, se))
    t = np.abs(value) / np.where(certain, 1.0, se)
    p = np.where(degrees > 0, 2 * stats.t.sf(t, np.maximum(degrees, 1)), 1.0)
    p = np.where(certain, np.where(value == 0, 1.0, 0.0), p)
    p = np.where(np.isnan(se), np.nan, p)
    # `[()]` turns arrays without axes into numbers, so that single estimates print and compare as such.
    return Estimate(value, se[()], value - half[()], value + half[()], p[()], n)
