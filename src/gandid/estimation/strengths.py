"""Graded hold: what normalization does, against how far it is held (THEORY part 2).

``psi(k) = R(live) - R(held at strength k)`` is a curve with ``psi(0) = 0``. All strengths of a held set are measured on the same latents,
so that their errors go together, and a band that holds everywhere at once is hardly wider than the intervals are one by one.
"""

from collections.abc import Iterator
from itertools import groupby

import numpy as np
import pandas as pd

from gandid.estimation.contents import Contents
from gandid.estimation.contrast import Parts, contrast, influences, parts
from gandid.estimation.families import WHOLE, estimated, labels, rows, sides, together, visible
from gandid.estimation.sums import gather
from gandid.stats import max_t


def strengths(contents: Contents, level: float) -> Iterator[pd.DataFrame]:
    """The contrasts `strength`, the curve with its band (`band_low`, `band_high`), and `slope`, its slope at strength 0.

    The slope is that of the parabola through 0 and the curve at the two lowest strengths (of the line where there is one): weights over
    arms like any other contrast, in points per full hold.
    """
    for _, ladder in groupby(contents.graded, lambda one: one.arm._replace(strength=1.0)):
        regimes = list(ladder)
        sums = gather(contents, [contents.place(one.arm) for one in regimes])
        live, held = sums.at([contents.live]), sums.at(one.arm for one in regimes)
        reached = np.array([one.arm.strength for one in regimes])
        for t, target in enumerate(contents.targets):
            for outcome in WHOLE if visible(sums, t) else ():
                found = parts(contents, sums, t, outcome)
                columns = sides(found, live, held, level) | _band(found, live - held, level)
                about = labels(regimes, target, outcome) | {"contrast": "strength", "strength": reached[:, None]}
                yield rows(found, about, columns)
                weights = slope_weights(reached) @ (live - held)
                about = labels(regimes[:1], target, outcome) | {"contrast": "slope", "strength": 0.0}
                yield rows(found, about, estimated(contrast(found, weights, level)))


def slope_weights(reached: np.ndarray) -> np.ndarray:
    """Weights of the curve's values at rising strengths that give its slope at 0, where it is 0; (strength,)."""
    weights = np.zeros(len(reached))
    if len(reached) == 1 or reached[1] == 1:  # a full hold may be far out of range
        weights[0] = 1 / reached[0]
    else:
        near, far = reached[:2]
        weights[:2] = far / near / (far - near), -near / far / (far - near)
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
            for outcome in WHOLE if visible(sums, t) else ():
                found = together(parts(contents, sums, t, outcome))
                about = labels([one], target, outcome) | {"contrast": "surface", "dose": np.array(at)[:, None]}
                yield rows(found, about, sides(found, live, held, level))
