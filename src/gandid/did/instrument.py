"""The segmenter as an instrument: what another one sees, and what is left when the known confusions of this one are undone.

Every outcome is a count of pixels that a segmenter named. Two things are asked of it. **A second segmenter**, built and trained apart,
looks at the same images: an effect that only one of them sees is the instrument's. **The matrix method** undoes the confusions
that were measured where the truth is known: named counts are, in expectation, true counts times the matrix of what the segmenter
calls what, so that true counts are estimated by its inverse (Czaplewski and Catts 1992, "Calibration of remotely sensed proportion
or area estimates for misclassification error"; Buonaccorsi 2010, *Measurement Error*, chapter 3).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from gandid.did import blocks, estimands
from gandid.did.checks import DEFAULTS, Bounds, Row, bonferroni, row
from gandid.did.combinations import Numerators, combine, numerators, shown, signed_z
from gandid.did.inference import ratio_from_sums
from gandid.did.totals import TOGETHER, about_the_whole

LABELS = ["target", "object", "outcome", "control", "held", "arm"]
ESTIMATES = ["did", "ci_low", "ci_high"]
SECOND = [*ESTIMATES, "did_second", "ci_second_low", "ci_second_high"]
SECOND += ["difference", "ci_difference_low", "ci_difference_high", "difference_z"]
CONDITION = 100.0  # of a matrix of shares that are known to some 0.1 %: beyond, its inverse tells nothing
# Weights of the inverse are rounded to whole multiples of this, and sums of counts stay exact (`ratio_from_sums`).
STEP = 2.0**-32


# The same images, another segmenter


def second(panel: xr.Dataset, other: xr.Dataset, level: float = 0.95) -> pd.DataFrame:
    """Estimate the DID of `removed` and `inpainted` under two segmenters, and their difference, paired by latent.

    Parameters
    ----------
    panel, other
        The same design on the same latents, seen by the two (docs/panel.md); latents and held arms that only one of them has are
        left out, and so are targets and objects that only one segmenter knows. `other` is read as a whole, of `panel` those latents.
    level
        Coverage of the intervals.

    Returns
    -------
    pandas.DataFrame
        One row per target, held arm and outcome: `removed`; `inpainted` by each object that both know, and by `other objects`,
        all those that each knows. `did`, `ci_low`, `ci_high` under the first, `did_second`, `ci_second_low`, `ci_second_high` under
        the second; `difference`, the first less the second, with `ci_difference_low`, `ci_difference_high` and `difference_z`, the
        difference in its own standard errors. NaN where fewer than two images show the target to either.
    """
    panel, other = estimands.prepare(panel), estimands.prepare(other)
    common = np.intersect1d(panel["latent"].values, other["latent"].values)
    one, two = (of[list(estimands.NEEDED)].sel(latent=common).load().assign_attrs(of.attrs) for of in (panel, other))
    held, again = ([arm.name for arm in estimands.held_arms(of)] for of in (one, two))
    rows: list[dict[str, object]] = []
    for target in [name for name in one["target"].values.astype(str) if name in two["target"].values.astype(str)]:
        visible = min(shown(one, target), shown(two, target)) >= 2
        for outcome in ("removed", "inpainted"):
            parts = [_on_objects(numerators(of, target, outcome)) for of in (one, two)]
            names = [name for name in parts[0].objects if name in parts[1].objects]
            for arm in [arm for arm in estimands.held_arms(one) if arm.name in again]:
                places = (1 + held.index(arm.name), 1 + again.index(arm.name))
                for name, values in zip(names, _side_by_side(parts, names, places, level), strict=True):
                    labels = (target, name, outcome, arm.control, arm.held, arm.name)
                    values = values if visible else np.full_like(values, np.nan)
                    rows.append(dict(zip(LABELS + SECOND, (*labels, *values), strict=True)))
    return pd.DataFrame(rows, columns=LABELS + SECOND)


# Weights of live and held under the first segmenter, and of live and held under the second.
_CONTRASTS = ([1, -1, 0, 0], [0, 0, 1, -1], [1, -1, -1, 1])


def _side_by_side(parts: Sequence[Numerators], names: Sequence[str], held: Sequence[int], level: float) -> np.ndarray:
    """Of each named class, the columns `SECOND`: (K, 10); `held` is the held arm's place in each of the parts."""
    chosen = [[list(part.objects).index(name) for name in names] for part in parts]
    numerator = [part.numerator[:, [0, h]][..., of] for part, of, h in zip(parts, chosen, held, strict=True)]
    denominator = [part.denominator[:, [0, h]] for part, h in zip(parts, held, strict=True)]
    a, b = np.concatenate(numerator, axis=1), np.concatenate(denominator, axis=1)
    found = [combine(a, b, np.array([weights]), level) for weights in _CONTRASTS]
    columns = [end[0] for of in found for end in (of.value, of.low, of.high)]
    return np.stack([*columns, signed_z(found[2])[0]], axis=1)


def _on_objects(found: Numerators) -> Numerators:
    """Without the classes that fill any hole."""
    kept = np.isin(found.kind, ["target", "object", "together"])
    return Numerators(found.objects[kept], found.kind[kept], found.numerator[..., kept], found.denominator)


# Confusions undone


class Correction(NamedTuple):
    """What estimates true counts from named ones."""

    inverse: np.ndarray
    """(true class, named class): true counts are it times named counts; NaN where the matrix cannot be inverted."""
    condition: float
    """How much larger, at worst, a relative error of the named counts becomes."""


def invert(confusion: pd.DataFrame) -> Correction:
    """The inverse of a segmenter's confusion.

    Parameters
    ----------
    confusion
        Rows the true class, columns the class that is named, both in the same order: shares of the true class's pixels.

    Returns
    -------
    Correction
        NaN where the matrix's condition number is above `CONDITION`, or a class was never seen. With recalls of at least r > 1/2
        the errors of the counts, added up in size, grow by no more than ``1 / (2 r - 1)`` (Varah 1975, for dominant diagonals).

    Raises
    ------
    ValueError
        If rows and columns are not the same classes.
    """
    if list(confusion.index) != list(confusion.columns):
        raise ValueError("a confusion that is undone has the same classes as rows and columns, in the same order")
    matrix = confusion.to_numpy(np.float64)
    condition = float(np.linalg.cond(matrix)) if np.isfinite(matrix).all() else np.inf
    if condition > CONDITION:
        return Correction(np.full_like(matrix, np.nan), condition)
    return Correction(np.linalg.inv(matrix).T, condition)


def corrected(panel: xr.Dataset, confusion: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Estimate the DID of `removed` and `inpainted` from counts whose confusions are undone.

    The classes of the target's original pixels after the edit are corrected, arm by arm; which pixels are the target's original
    ones stays as the segmenter named them. The confusion counts as known, and as the same on the generator's images as on the
    renders on which it was measured, whatever the shares of the classes (prior-probability shift): a class that the generator
    draws badly is confused more often than that. True counts of single latents may be negative; only their sums mean something.
    Since they are linear in the named ones, the errors are those of a ratio of sums as before.

    Parameters
    ----------
    panel
        As docs/panel.md describes it; read some latents at a time.
    confusion
        Of the panel's classes, as in `invert`.
    level
        Coverage of the intervals.

    Returns
    -------
    pandas.DataFrame
        One row per target, held arm and outcome, as of `second`: `did`, `ci_low`, `ci_high`; NaN where the confusion cannot be
        inverted, or fewer than two images show the target.

    Raises
    ------
    ValueError
        If the confusion is of other classes than the panel.
    """
    panel = estimands.prepare(panel)
    classes = [str(name) for name in panel["object"].values]
    if [str(name) for name in confusion.index] != classes:
        raise ValueError(
            f"the confusion is of {', '.join(map(str, confusion.index))}, the panel of {', '.join(classes)}"
        )
    inverse = invert(confusion).inverse
    sums, products, informing, carried = _moments(panel)
    rows: list[dict[str, object]] = []
    for t, target in enumerate(panel["target"].values.astype(str)):
        names, weights = _numerator_weights(inverse, estimands.kinds(panel, target), classes)
        for h, arm in enumerate(estimands.held_arms(panel)):
            n = int(informing[t, h])
            for (outcome, name), numerator in zip(names, weights, strict=True):
                labels = (target, name, outcome, arm.control, arm.held, arm.name)
                values = [np.nan] * 3
                if n >= 2 and np.isfinite(numerator).all():
                    v = _whole(numerator)
                    linear = np.stack(
                        [
                            np.concatenate(pair)
                            for pair in ((v[0], 0 * v[0]), (v[1], 0 * v[0]), (0 * v[0], v[0]), (0 * v[0], v[1]))
                        ]
                    )
                    found = ratio_from_sums(
                        (linear @ sums[t, h])[:, None],
                        (linear @ products[t, h] @ linear.T)[:, :, None],
                        n,
                        level,
                        carried[t, h, None].astype(float),
                    )
                    values = [found.value[0], found.low[0], found.high[0]]
                rows.append(dict(zip(LABELS + ESTIMATES, (*labels, *values), strict=True)))
    return pd.DataFrame(rows, columns=LABELS + ESTIMATES)


def _numerator_weights(
    inverse: np.ndarray, kind: np.ndarray, classes: list[str]
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """(outcome, object) of each estimate, and the weights of named counts in its numerator, (K, class)."""
    target, objects = int(np.flatnonzero(kind == "target")[0]), np.flatnonzero(kind == "object")
    names = [("removed", classes[target]), *(("inpainted", classes[o]) for o in objects), ("inpainted", TOGETHER)]
    # Undoing confusions moves pixels between classes and keeps their number, which is the denominator.
    return names, np.stack([1 - inverse[target], *inverse[objects], inverse[objects].sum(axis=0)])


def _whole(numerator: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of named counts in a numerator and in its denominator, in whole `STEP`s: Python's integers."""
    steps = [round(float(weight) / STEP) for weight in numerator]
    return np.array(steps, object), np.array([int(1 / STEP)] * len(steps), object)


def _moments(panel: xr.Dataset) -> tuple[np.ndarray, ...]:
    """Sums over latents of what the target's original pixels became: live's counts by class, then a held arm's.

    Sums (target, held arm, 2 C) and sums of products (target, held arm, 2 C, 2 C), Python's integers; latents that inform either
    arm, and those in which the two differ, (target, held arm).
    """
    arms = [str(name) for name in panel["arm"].values]
    live, held = arms.index("live"), [arms.index(arm.name) for arm in estimands.held_arms(panel)]
    classes = panel.sizes["object"]

    def count(block: slice) -> tuple[np.ndarray, ...]:
        inside = blocks.read(panel, "inside", block, "target", "arm", "object").astype(np.float64)
        pair = np.concatenate(np.broadcast_arrays(inside[:, :, [live]], inside[:, :, held]), axis=-1)
        pair = np.moveaxis(pair, 0, -1)  # (target, held arm, 2 C, latent)
        differ = (pair[:, :, :classes] != pair[:, :, classes:]).any(axis=2)
        both = np.matmul(pair, np.swapaxes(pair, -1, -2))  # whole numbers below 2**53: exact
        return pair.sum(-1), both, pair.any(axis=2).sum(-1), differ.sum(-1)

    parts = list(blocks.stream(count, blocks.slices(panel, ("inside",))))
    return tuple(np.sum([part[i].astype(np.int64).astype(object) for part in parts], axis=0) for i in range(4))


# Verdicts


def checks(
    panel: xr.Dataset,
    seen: pd.DataFrame | None = None,
    confusion: pd.DataFrame | None = None,
    bounds: Bounds = DEFAULTS,
) -> Iterator[Row]:
    """Judge the segmenter: rows ``second_segmenter`` and ``ground_truth``.

    ``second_segmenter`` (per target and held arm) asks whether another segmenter confirms the DIDs of `removed` and of
    `inpainted` by other objects. One is *confirmed* if both intervals exclude 0 on the same side, or both contain 0. Its value is
    the largest difference of the two segmenters, in its own paired standard errors, among those that are not confirmed (0 where
    all are), and its bound that of `Bounds.stability` for as many comparisons (Bonferroni): *flagged* where the
    segmenters both contradict each other and differ beyond chance. On few latents they may fail to
    confirm without being flagged; the detail says so. That both agree does not make them right: they were trained on the same rooms.

    ``ground_truth`` (once) is the smallest recall among the object classes on renders, *flagged* below `Bounds.recall`: from there
    on the matrix method amplifies errors by more than 1.7 (`invert`).

    Parameters
    ----------
    panel
        As docs/panel.md describes it: it says which classes are objects.
    seen
        As `second` returns it; None where there is no second segmenter.
    confusion
        As in `invert`; None where there is no truth.
    bounds
        `stability` and `recall` are used.
    """
    if confusion is not None:
        yield _ground_truth(panel, confusion, bounds)
    if seen is None or seen.empty:
        return
    for (target, arm), of in about_the_whole(seen).groupby(["target", "arm"], sort=False):
        yield _second_segmenter(of, bounds, str(target), str(arm))


def _ground_truth(panel: xr.Dataset, confusion: pd.DataFrame, bounds: Bounds) -> Row:
    names = panel["object"].values.astype(str)
    objects = names[~panel["background"].values & (names != "unknown")]
    recalls = pd.Series({name: confusion.loc[name, name] for name in objects}, dtype=float).fillna(0.0)
    worst, condition = str(recalls.idxmin()), invert(confusion).condition
    detail = f"worst is {worst}; condition number of the confusion {condition:.2f}"
    detail += "" if condition <= CONDITION else ": no correction"
    return row("ground_truth", recalls[worst], bounds.recall, bool(recalls[worst] >= bounds.recall), detail=detail)


def _second_segmenter(of: pd.DataFrame, bounds: Bounds, target: str, arm: str) -> Row:
    bound = bonferroni(bounds.stability, len(of))
    if of["difference"].isna().any():
        detail = "too few images show it to one of the segmenters"
        return row("second_segmenter", np.inf, bound, False, target=target, arm=arm, detail=detail)
    sides = [np.sign(of[low]) * (np.sign(of[low]) == np.sign(of[high])) for low, high in _ENDS]
    confirmed = (sides[0] == sides[1]).to_numpy()
    value = float(of["difference_z"].abs()[~confirmed].max()) if not confirmed.all() else 0.0
    told = [
        f"{one['outcome']}{'' if one['outcome'] == 'removed' else f' by {TOGETHER}'}: {100 * one['did']:+.1f} points, "
        f"second {100 * one['did_second']:+.1f}{'' if sure else ' (not confirmed)'}"
        for one, sure in zip(of.to_dict("records"), confirmed, strict=True)
    ]
    detail = "; ".join(told)
    return row("second_segmenter", value, bound, value <= bound, target=target, arm=arm, detail=detail)


_ENDS = (("ci_low", "ci_high"), ("ci_second_low", "ci_second_high"))
