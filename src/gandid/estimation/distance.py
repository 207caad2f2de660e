"""Distance: how far an arm's images are from the live ones, in units of a change of dose (docs/inference.md, "Distance").

A linear classifier that is cross-fitted over latents tells two arms apart. With the area A under its receiver operating curve, held
against live, and A' of the live arms at two doses, ``kappa = (A - 1/2) / (A' - 1/2)``: at 1 holding moves the images as far as the change
of dose does, and at 0 they cannot be told apart. A marginal quantile of a score cannot show that two worlds overlap; a two-sample
distance can refute it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gandid.estimation.bounds import Bounds, CheckRow, row
from gandid.estimation.contents import Contents
from gandid.estimation.sums import Sums
from gandid.panel.schema import FEATURED
from gandid.panel.table import near

FOLDS = 5
RIDGE = 0.5  # share of the identity in the classifier's covariance, of features that have a variance of 1
LEAST = 10  # images of a target below which nothing is told apart
RESAMPLES = 500


class Distance(NamedTuple):
    """How far an arm is from live, for one target; the live arm's own is how far it is from the unedited images."""

    target: str
    arm: str
    area: float
    """Under the curve of the classifier that tells the arm from live."""
    dose: float
    """Under that of the one which tells the two doses apart."""
    kappa: float
    low: float
    high: float
    """Ends of its interval, from a bootstrap over latents."""
    images: int


def distances(contents: Contents, sums: Sums, level: float = 0.95) -> Iterator[Distance]:
    """The distance of every held arm of the generator itself from live, and of live from the unedited images.

    Of the latents whose images have features those count that show the target. None where the panel has no features, or no second dose.
    """
    other = near(contents.live)
    if "features" not in contents.panel or not contents.has(other):
        return
    held = dict.fromkeys(one for one in (*contents.regimes, *contents.graded) if one.arm.network == "own")
    names = [("live", contents.names.index("reference")), *((one.name, contents.place(one.arm)) for one in held)]
    ends = [contents.place(contents.live), contents.place(other)]
    first = int((contents.panel["latent"][: len(sums.shown)] < FEATURED).sum())  # the rest is blank
    few, shown = contents.panel["features"].isel(latent=slice(first)), sums.shown[:first]
    # Loaded before it is transposed: the other way round costs Zarr half a second.
    read = few.isel(arm=[*ends, *(place for _, place in names)]).load()
    values = read.transpose("target", "arm", "latent", "feature").values
    for t, target in enumerate(contents.targets):
        usable = shown[:, t] & np.isfinite(values[t]).all(axis=(0, 2))
        if (count := int(usable.sum())) < LEAST:
            continue
        live, other, *arms = values[t][:, usable].astype(np.float64)
        times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
        dose, doses = _area(live, other, times)
        for (name, _), images in zip(names, arms, strict=True):
            area, areas = _area(live, images, times)
            ends_of = np.quantile(_ratio(areas, doses), [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
            kappa = float(_ratio(np.array(area), np.array(dose)))
            yield Distance(target, name, area, dose, kappa, float(ends_of[0]), float(ends_of[1]), count)


def distance_rows(apart: Sequence[Distance], bounds: Bounds) -> Iterator[CheckRow]:
    """The check `distance`: whether an arm is no further from live than a change of dose brings it; the estimate decides."""
    for one in apart:
        what = "the unedited images are told from it" if one.arm == "live" else "told from live"
        edge = " (not settled)" if one.low <= bounds.distance < one.high else ""
        detail = f"{what} with area {one.area:.2f}, two doses with {one.dose:.2f}; interval {one.low:.2f} to {one.high:.2f}{edge}"
        about = {"target": one.target, "arm": one.arm, "detail": f"{detail}; {one.images} images"}
        yield row("distance", one.kappa, bounds.distance, one.kappa <= bounds.distance, **about)


def _ratio(area: np.ndarray, dose: np.ndarray) -> np.ndarray:
    """Kappa; 0 where the arm cannot be told from live, infinite where it can and the doses cannot."""
    above, below = np.maximum(area - 0.5, 0.0), np.maximum(dose - 0.5, 0.0)
    return np.divide(above, below, out=np.where(above > 0, np.inf, 0.0), where=below > 0)


def _area(one: np.ndarray, other: np.ndarray, times: np.ndarray) -> tuple[float, np.ndarray]:
    """Area under the curve that tells two arms (n, F) of the same latents apart; and under resampling, how often each latent counts.

    Only pairs of different latents count, since the two images of one are alike in all that the arms leave alone.
    """
    fold = np.arange(len(one)) % FOLDS
    scores = np.zeros((2, len(one)))
    for k in range(FOLDS):
        scores[:, fold == k] = _fitted(one[fold != k], other[fold != k], np.stack([one, other])[:, fold == k])
    # Scores of two folds are two classifiers', which have no common zero.
    pairs = (fold[:, None] == fold) & ~np.eye(len(one), dtype=bool)
    wins = pairs * (np.sign(scores[1][:, None] - scores[0]) + 1) / 2
    total = np.einsum("bi,ij,bj->b", times, pairs.astype(float), times, optimize=True)
    areas = np.einsum("bi,ij,bj->b", times, wins, times, optimize=True) / np.maximum(total, 1)
    return float(wins.sum() / pairs.sum()), areas


def _fitted(one: np.ndarray, other: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """Scores of new images (2, m, F) by the linear discriminant of two arms, with a ridge (Friedman 1989)."""
    both = np.concatenate([one, other])
    centre, spread = both.mean(axis=0), both.std(axis=0)
    spread[spread < 1e-9] = 1.0
    one, other, fresh = ((values - centre) / spread for values in (one, other, fresh))
    gap = other.mean(axis=0) - one.mean(axis=0)
    within = np.concatenate([one - one.mean(axis=0), other - other.mean(axis=0)])
    covariance = (1 - RIDGE) * (within.T @ within) / len(within) + RIDGE * np.eye(len(gap))
    return fresh @ np.linalg.solve(covariance, gap)
