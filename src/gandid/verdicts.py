"""Verdicts: whether normalization matters to an object, by the size of an effect and not by its significance alone.

An effect is compared with the *smallest effect of interest*, a share of the object's pixels (a point, unless the study says otherwise; of
the image or of images for outcomes that are shares of those). A verdict is passed on the whole interval: beyond the smallest effect of
interest there is an effect that matters; within it there is none that does, which is an equivalence test (Schuirmann 1987); across it
nothing is settled, and neither is it where fewer images show the object than its interval, built on a normal limit, needs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line reads the defaults before anything slow is loaded
    import pandas as pd

CAUSED = "caused by normalization"
PREVENTED = "prevented by normalization"
NEGLIGIBLE = "no relevant effect"
UNSETTLED = "not settled"
OUTSIDE = "out of range"
MISSING = "not estimable"
SOLID = (CAUSED, PREVENTED)
# The smallest effect of interest: one percentage point of the object's pixels.
RELEVANT = 0.01
SEEN = 30  # images that show the object below which nothing is settled


def never_differed(row: Mapping[Any, Any]) -> bool:
    """Whether live and held gave the same counts in every image, so that the interval has no width."""
    return bool(row["did"] == 0 and row["ci_low"] == row["ci_high"])


def interval(row: Mapping[Any, Any]) -> tuple[float, float]:
    """The interval of an effect, a share in [-1, 1]: never of zero width and never infinite.

    Where live and held never differed in n images, the rule of three bounds the share of images in which they do: with 95 %
    confidence it is below 3/n (Hanley and Lippman-Hand 1983), and so is what they can differ by.
    """
    if never_differed(row):
        bound = min(3 / max(row["n"], 1), 1.0)
        return -bound, bound
    return max(float(row["ci_low"]), -1.0), min(float(row["ci_high"]), 1.0)


def verdict(row: Mapping[Any, Any], relevant: float = RELEVANT, seen: int = SEEN) -> str:
    """The verdict on one effect.

    Parameters
    ----------
    row
        A row of ``effects.csv``: `did`, `ci_low`, `ci_high`, `n`, `estimable` and `supported` are read.
    relevant
        The smallest effect of interest, a share in (0, 1).
    seen
        How many images must inform an effect. Networks are not images: the contrast `networks` is judged by its interval alone.

    Returns
    -------
    str
        `MISSING` where too few images show the object; `OUTSIDE` where the held images leave the network's range; `CAUSED` or
        `PREVENTED` where the whole interval lies beyond `relevant`; `NEGLIGIBLE` where all of it lies within; else `UNSETTLED`.
    """
    if not row["estimable"] or math.isnan(row["did"]):
        return MISSING
    if not row["supported"]:
        return OUTSIDE
    if row["n"] < seen and row.get("contrast") != "networks":
        return UNSETTLED
    low, high = interval(row)
    if low > relevant:
        return CAUSED
    if high < -relevant:
        return PREVENTED
    return NEGLIGIBLE if -relevant <= low and high <= relevant else UNSETTLED


def judged(effects: pd.DataFrame, latents: int, relevant: float = RELEVANT, seen: int = SEEN) -> pd.DataFrame:
    """The table of effects with its columns `verdict` and `settled_by`: of what is not settled, how many latents might settle it.

    `settled_by` is of the contrasts `did` and `strength`, since others rest on the first latents only; see `verdict` and `settling`.
    """
    rows = effects.to_dict("records")
    found = [verdict(row, relevant, seen) for row in rows]
    wanted = [
        (word == UNSETTLED and row["contrast"] in ("did", "strength") and settling(row, latents, relevant, seen))
        or math.nan
        for row, word in zip(rows, found, strict=True)
    ]
    return effects.assign(verdict=found, settled_by=wanted).astype({"verdict": object, "settled_by": float})


def settling(row: Mapping[Any, Any], latents: int, relevant: float = RELEVANT, seen: int = SEEN) -> int | None:
    """How many latents would settle an effect that is not settled, if it is as large as estimated.

    An interval's width falls with the root of the number of latents. None where the estimate lies so close to the smallest
    effect of interest that a million latents would not do, or where there is no finite interval to start from.
    """
    if never_differed(row):
        wanted = latents * 3 / (max(row["n"], 1) * relevant)
    else:
        half, distance = (row["ci_high"] - row["ci_low"]) / 2, abs(abs(row["did"]) - relevant)
        if not math.isfinite(half) or distance == 0:
            return None
        wanted = latents * (half / distance) ** 2
    wanted = max(wanted, latents * seen / max(row["n"], 1))
    if not math.isfinite(wanted) or wanted > 1e6:
        return None
    step = 10 ** max(math.floor(math.log10(max(wanted, 1))) - 1, 0)
    return math.ceil(wanted / step) * step
