"""The estimator: a contrast is a sum of ratios with weights over arms, and its error comes from sums over groups of latents.

Every outcome is a ratio of sums, ``R = sum(a) / sum(b)`` (a mean is a ratio over a constant), with the influence values ``(a_g - R
b_g) / sum(b)`` of groups g (the linearized variance of a ratio estimator: Cochran, *Sampling Techniques*, 1977, section 6.4); a
weighted sum of ratios has the weighted sum of theirs, so that contrasts of arms are paired by latent.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gandid import outcomes
from gandid.estimation.contents import Contents, Regime
from gandid.estimation.sums import Sums
from gandid.stats import identified_interval, t_interval, weighted_sum

BOUNDS = [f"{stem}_{end}" for stem in ("worst", "ci_worst", "paired", "ci_paired") for end in ("low", "high")]


class Parts(NamedTuple):
    """An outcome of one target: what is divided by what, in every group and arm."""

    objects: np.ndarray
    """Names of the K classes, (K,)."""
    kinds: np.ndarray
    """What each is to the target: `target`, `object`, `background`, `unknown`, or `together`."""
    numerator: np.ndarray
    """(group, arm, K)."""
    denominator: np.ndarray
    """(group, arm)."""


class Estimate(NamedTuple):
    """W contrasts of K classes; fields have the shape (W, K)."""

    value: np.ndarray
    se: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    """Of the t test."""
    groups: np.ndarray
    """Groups of latents that inform the contrast, (W, 1)."""
    carriers: np.ndarray
    """Groups in which the numerators of the arms do not cancel."""


def parts(contents: Contents, sums: Sums, target: int, outcome: str, segmenter: int = 0) -> Parts:
    """An outcome of one target: `removed` or `inserted`; `inpainted` or `displaced`, by class and of all other objects together.

    All are changes against the arm's unedited image, as `area`, `collateral` and `emerged` are.
    """
    kinds = contents.kinds(contents.targets[target], segmenter)
    if outcome in outcomes.WHOLE:
        return place_parts(sums, target, outcome, contents.classes, kinds)
    if not sums.whole:
        raise ValueError(f"{outcome} takes whole images, which are not made of all latents in some of the arms")
    own, size = np.flatnonzero(kinds != ""), 1 if outcome == "emerged" else contents.size
    if outcome == "emerged":
        change = sums.emerged[:, target][..., own]
    else:
        counts = sums.pixels[:, target][..., own]
        if outcome == "collateral":
            counts = counts - sums.inside[:, target][..., own]
        change = counts - counts[:, sums.baselines]
    whole = np.broadcast_to(size * sums.latents[:, None], change.shape[:2])
    return Parts(contents.classes[own], kinds[own], change.astype(np.float64), whole.astype(np.float64))


def place_parts(
    sums: Sums, target: int, outcome: str, classes: np.ndarray, kinds: np.ndarray, true: np.ndarray | None = None
) -> Parts:
    """What became of a target's place as one of the outcomes of `gandid.outcomes.PAIRS`.

    `classes` and their `kinds` are those of the panel, (C,); `true`, if given, what they are as weights over what they are called, (C, C).
    """
    own = kinds == "target" if outcomes.WHOLE[outcome] == "target" else (kinds != "target") & (kinds != "")
    weights, objects, about = np.eye(len(kinds))[own], classes[own], kinds[own]
    if outcomes.WHOLE[outcome] == "together":
        weights = np.concatenate([weights, [kinds == "object"]])
        objects, about = np.append(objects, outcomes.TOGETHER), np.append(about, "together")
    weights = weights if true is None else weights @ true
    found = ratio_parts(sums, target, objects, about, -weights if outcome in outcomes.FALLING else weights)
    return found._replace(numerator=found.numerator - found.numerator[:, sums.baselines])


def ratio_parts(sums: Sums, target: int, objects: np.ndarray, kinds: np.ndarray, weights: np.ndarray) -> Parts:
    """Shares of the target's place, from weights over the classes that its pixels carry after the edit, (K, C)."""
    inside = sums.inside[:, target].astype(np.float64)
    return Parts(objects, kinds, inside @ weights.T, inside.sum(axis=2))


def contrast(parts: Parts, weights: npt.ArrayLike, level: float = 0.95, carriers: float | None = None) -> Estimate:
    """Estimate ``sum_j w_j sum(a_j) / sum(b_j)`` for each of several vectors of weights w over arms.

    With ``P_g`` the weighted sum of influence values of group g and m groups that inform one of the arms, the variance is ``m / (m - 1)
    sum P_g^2``: up to 1,024 latents that is the usual one over latents. Means have the error ``sd / sqrt(n)``.

    Parameters
    ----------
    parts
        Numerators a and denominators b.
    weights
        (W, arm).
    level
        Coverage of the t interval.
    carriers
        Latents that carry the contrasts, for the degrees of freedom (`gandid.stats.t_interval`): infinity if all do. By default those
        in which the weighted numerators do not cancel.

    Returns
    -------
    Estimate
        NaN where an arm has no denominator, errors where fewer than two groups inform.
    """
    weights = np.atleast_2d(np.asarray(weights, np.float64))
    own, influence, ratio, total = _influences(parts, weights)
    missing = (weights[:, total <= 0] != 0).any(axis=1)[:, None]
    value = np.where(missing, np.nan, weighted_sum(weights, np.nan_to_num(ratio)))
    # Where weights cancel (at dose 0 live and held are one image) the contrast is 0, as sure as there are latents.
    used = (weights != 0) | ~(weights != 0).any(axis=1, keepdims=True)
    groups = ((parts.denominator > 0).astype(float) @ used.T > 0).sum(axis=0)[:, None]
    squares = (influence**2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        se = np.where(missing | (groups < 2), np.nan, np.sqrt(squares * groups / (groups - 1)))
    # Where every latent agrees, se is 0 up to rounding, which must not pass for a tiny error.
    se = np.where(se <= 1e-12 * np.abs(value), 0.0, se)
    counted = (own != 0).sum(axis=0)
    interval = t_interval(value, se, groups, counted if carriers is None else carriers, level)
    return Estimate(value, se, *interval, groups, counted)


def flip_values(parts: Parts, weights: npt.ArrayLike) -> np.ndarray:
    """Values by group whose sum is the contrast, and whose signs can be flipped: (group, W, K).

    ``sum_j w_j (a_j - R b_j) / sum(b_j)``, with R the ratio of all arms of the contrast together: of arms with the same holes R
    cancels; of two networks, whose holes have nothing to do with each other, it keeps their sizes out of the test.
    """
    weights = np.atleast_2d(np.asarray(weights, np.float64))
    scaled, own = _scaled(parts, weights)
    used = (weights != 0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        joint = (used @ parts.numerator.sum(axis=0)) / (used @ parts.denominator.sum(axis=0))[:, None]
    return own - weighted_sum(scaled, parts.denominator[:, :, None]) * np.nan_to_num(joint)


def study_contrast(parts: Parts, live: int, held: Sequence[int], level: float) -> tuple[Estimate, np.ndarray]:
    """Live less each of H arms (their places), carried by the latents in which the two differ.

    Returns
    -------
    Estimate, numpy.ndarray
        Fields of shape (H, K), and the values whose signs can be flipped, (group, H, K).
    """
    at = np.eye(parts.denominator.shape[1])
    weights = at[live] - at[list(held)]
    estimate, flipped = contrast(parts, weights, level), flip_values(parts, weights)
    # Of two networks all holes differ, also where a class is in neither of them.
    carriers = np.where(estimate.carriers > 0, (flipped != 0).sum(axis=0), 0)
    interval = t_interval(estimate.value, estimate.se, estimate.groups, carriers, level)
    return estimate._replace(**interval._asdict(), carriers=carriers), flipped


def influences(parts: Parts, weights: npt.ArrayLike) -> np.ndarray:
    """The influence of each group on each contrast, (group, W, K): what errors that contrasts share are made of."""
    return _influences(parts, np.atleast_2d(np.asarray(weights, np.float64)))[1]


def _influences(parts: Parts, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weighted numerators and influences, (group, W, K), with the ratios, (arm, K), and the arms' whole denominators."""
    scaled, own = _scaled(parts, weights)
    total = parts.denominator.sum(axis=0)
    ratio = parts.numerator.sum(axis=0) / np.where(total > 0, total, np.nan)[:, None]
    expected = weighted_sum(scaled, parts.denominator[:, :, None] * np.nan_to_num(ratio))
    return own, own - expected, ratio, total


def _scaled(parts: Parts, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights over the arms' denominators, (W, arm), and the weighted numerators, (group, W, K)."""
    total = parts.denominator.sum(axis=0)
    scaled = weights / np.where(total > 0, total, np.inf)
    return scaled, weighted_sum(scaled, parts.numerator)


def bounds_of(
    contents: Contents,
    sums: Sums,
    found: Parts,
    target: int,
    outcome: str,
    held: Sequence[Regime],
    level: float = 0.95,
    segmenter: int = 0,
) -> dict[str, np.ndarray]:
    """What live less held of an outcome of a place is at least and at most, and intervals for it (Imbens and Manski 2004).

    Pixels that the segmenter does not recognize could be anything, so that an effect is known between bounds only (Manski 2003, *Partial
    Identification of Probability Distributions*). With shares pi of class c and of unrecognized pixels U, and ``d = pi_c(live) - pi_c(held)``,

    - `worst`, whatever they are: ``[d - P(U held), d + P(U live)]``;
    - `paired`, if a pixel that is unrecognized in both arms is the same thing in both: ``[d - P(U held, not U live), d + P(U live, not U
      held)]``; only where both arms have the same hole, under exact controls.

    An end of the bounds is a contrast of counts to which unrecognized pixels are added or not. Of an insertion into another network none is
    known: pixels of its unedited region may be unrecognized, too.

    Returns
    -------
    dict
        Columns `BOUNDS`, (held, class); none where the segmenter has no class `unknown`; NaN of that class itself.
    """
    kinds = contents.kinds(contents.targets[target], segmenter)
    if "unknown" not in kinds:
        return {}
    unknown = sums.inside[:, target, :, kinds == "unknown"][0][..., None].astype(float)  # (group, arm, 1)
    both = np.zeros_like(unknown) if sums.shared is None else sums.shared[:, target, :, None]
    place, *others = sums.index([contents.live, *(regime.arm for regime in held)])
    least = found.numerator - unknown * (outcome in outcomes.FALLING)  # a pixel without a name counts for no class
    ends = [least, least + unknown, least + unknown - both, least - unknown[:, [place]] + both]
    every = Parts(found.objects, found.kinds, np.concatenate(ends, axis=1), np.tile(found.denominator, len(ends)))
    each = np.eye(len(sums.arms))[others]
    live, no = np.eye(len(sums.arms))[place] + 0 * each, 0 * each
    exact = np.array([regime.arm.exact for regime in held])[:, None]
    known = (found.kinds != "unknown") & (exact | (not contents.inserts))
    paired = known & exact & (sums.shared is not None)
    columns = dict[str, np.ndarray]()
    for name, known_here, low, high in (
        ("worst", known, [live, -each, no, no], [-each, live, no, no]),
        ("paired", paired, [live, no, -each, no], [live, no, no, -each]),
    ):
        lower, upper = (contrast(every, np.hstack(weights), level) for weights in (low, high))
        carriers, errors = np.minimum(lower.carriers, upper.carriers), (lower.se, upper.se)
        ci = identified_interval(lower.value, upper.value, errors, lower.groups, carriers, level)
        values = (lower.value, upper.value, *ci)
        names = [f"{stem}{name}_{end}" for stem in ("", "ci_") for end in ("low", "high")]
        columns |= {column: np.where(known_here, value, np.nan) for column, value in zip(names, values, strict=True)}
    return columns
