"""Graded hold: what normalization does, against how far it is held (docs/inference.md, "Graded hold").

``psi(k) = R(live) - R(held at strength k)`` is a curve with ``psi(0) = 0``. All strengths of a held set are measured on the same latents,
so that their errors go together, and a band that holds everywhere at once is hardly wider than the intervals are one by one.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby, takewhile

import numpy as np
import pandas as pd

from gandid.estimation.contents import Contents, Regime
from gandid.estimation.contrast import Parts, contrast, influences, parts
from gandid.estimation.families import estimated, labels, rows, sides, together, visible
from gandid.estimation.sums import gather
from gandid.stats import max_t


def strengths(contents: Contents, level: float, near: Collection[tuple[str, str]] = ()) -> Iterator[pd.DataFrame]:
    """The contrasts `strength`, the curve with its band, `slope`, its slope at strength 0, and `beyond`, where it leads.

    The slope is that of the parabola through 0 and the curve at the two lowest strengths (of the line where there is one): weights over
    arms like any other contrast, in points per full hold. With k* the last strength in range, of which and of all lower ones the pairs (target,
    arm) are `near`, `beyond` is ``psi(k*) + (1 - k*) psi'(k*)``, its slope again that of a parabola. If the curve bends by no more
    than M, the full effect is within ``M (1 - k*)^2 / 2`` of it; `breakdown` is the M from which on 0 is among what it may be.
    """
    for _, ladder in groupby(contents.graded, lambda one: one.arm._replace(strength=1.0)):
        regimes = list(ladder)
        sums = gather(contents, [contents.place(one.arm) for one in regimes])
        live, held = sums.at([contents.live]), sums.at(one.arm for one in regimes)
        reached = np.array([one.arm.strength for one in regimes])
        for t, target in enumerate(contents.targets):
            for outcome in contents.pair if visible(sums, t) else ():
                found = parts(contents, sums, t, outcome)
                columns = sides(found, live, held, level) | _band(found, live - held, level)
                about = labels(regimes, target, outcome) | {"contrast": "strength", "strength": reached[:, None]}
                yield rows(found, about, columns)
                weights = slope_weights(reached) @ (live - held)
                about = labels(regimes[:1], target, outcome) | {"contrast": "slope", "strength": 0.0}
                yield rows(found, about, estimated(contrast(found, weights, level)))
                last = sum(takewhile(bool, ((target, one.name) in near for one in regimes))) - 1
                if last >= 0 and reached[last] < 1:
                    yield _beyond(found, live - held, regimes, target, outcome, last, level)


def _beyond(
    found: Parts, psi: np.ndarray, regimes: Sequence[Regime], target: str, outcome: str, last: int, level: float
) -> pd.DataFrame:
    """The curve continued in a straight line to the full hold from one of its strengths, with the curvature that would overturn it."""
    reached = np.array([one.arm.strength for one in regimes])
    left = 1 - reached[last]
    weights = left * slope_weights(reached, last) @ psi + psi[last]
    columns = estimated(contrast(found, weights, level))
    far = np.maximum(np.maximum(columns["ci_low"], -columns["ci_high"]), 0)
    about = labels([regimes[last]], target, outcome) | {"contrast": "beyond", "strength": reached[last]}
    return rows(found, about, columns | {"breakdown": far / (left**2 / 2)})


def slope_weights(reached: np.ndarray, at: int | None = None) -> np.ndarray:
    """Weights of a curve's values at rising strengths that give its slope at 0, where it is 0, or `at` one of them; (strength,).

    The slope is that of the parabola through 0 and two strengths, the lowest or that one and the one before; of a line where there is one.
    """
    weights, far = np.zeros(len(reached)), 1 if at is None else at
    if far == 0 or len(reached) == 1 or (at is None and reached[1] == 1):  # a full hold may be far out of range
        weights[0] = 1 / reached[0]
    else:
        h, g = reached[far - 1 : far + 1]
        point = 0.0 if at is None else g
        weights[far - 1 : far + 1] = (g - 2 * point) / h / (g - h), (2 * point - h) / g / (g - h)
    return weights


def _band(found: Parts, weights: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """A band that covers the curve at all strengths at once with probability `level`."""
    psi, parts_of = contrast(found, weights, level), influences(found, weights)
    half = np.array(psi.high - psi.value)
    known = (psi.se > 0) & (psi.carriers > 1)  # what a single latent carries has no interval
    for k in np.flatnonzero(known.any(axis=0)):
        moving = known[:, k]
        degrees = min(float(psi.groups.min()), *psi.carriers[moving, k]) - 1
        half[moving, k] = np.maximum(half[moving, k], max_t(parts_of[:, moving, k], degrees, level) * psi.se[moving, k])
    return {"band_low": psi.value - half, "band_high": psi.value + half}


def surface(contents: Contents, level: float) -> Iterator[pd.DataFrame]:
    """The contrast `surface`: what is held partly, at every dose at which it was measured; of the whole effects."""
    for one in contents.graded:
        at = [dose for dose in contents.doses[1:] if contents.has(one.arm._replace(dose=dose))]
        if len(at) < 2 or one.arm.strength == 1:
            continue
        arms = [[arm._replace(dose=dose) for dose in at] for arm in (contents.live, one.arm)]
        sums = gather(contents, [contents.place(arm) for side in arms for arm in side])
        live, held = (sums.at(side) for side in arms)
        for t, target in enumerate(contents.targets):
            for outcome in contents.pair if visible(sums, t) else ():
                found = together(parts(contents, sums, t, outcome))
                about = labels([one], target, outcome) | {"contrast": "surface", "dose": np.array(at)[:, None]}
                yield rows(found, about, sides(found, live, held, level))
