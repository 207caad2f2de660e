"""Matched removal: live and held at doses that remove as much of the target, so that less removed does not pass for less in-painted."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from gandid.estimation.contents import Contents
from gandid.estimation.contrast import Parts, parts
from gandid.estimation.families import at_doses, chosen, labels, rows, visible
from gandid.stats import resampled_sums

REMOVED = (0.25, 0.5, 0.75)  # shares of the target that are removed in both regimes


def matched(contents: Contents, level: float) -> Iterator[pd.DataFrame]:
    """The contrast `matched`: ``theta(rho) = I_live(R_live^-1(rho)) - I_held(R_held^-1(rho))``, rho in the column `removal`.

    R and I are the shares of the target's original pixels that a dose removes and that other objects in-paint, linear between doses;
    where a higher dose removes less than a lower one, it counts as removing as much. Errors and intervals are from a bootstrap over
    groups of latents, in which both curves are drawn again. Shares that one of the regimes does not reach have no row.
    """
    if not contents.doses or contents.inserts:
        return
    sums, (live, *held) = at_doses(contents)
    for t, target in enumerate(contents.targets):
        if not visible(sums, t):
            continue
        removed = parts(contents, sums, t, "removed")
        painted = chosen(parts(contents, sums, t, "inpainted"), ("object", "together"))
        sides = {tuple(arms): _curves(removed, painted, arms) for arms in (live, *held)}
        for regime, arms in zip(contents.regimes, held, strict=True):
            one, other = sides[tuple(live)], sides[tuple(arms)]
            reached = min(one[0].max(), other[0].max(), 1.0)
            for share in (share for share in REMOVED if share <= reached):
                before, after = _at(share, one), _at(share, other)
                gap = before - after
                low, high = np.nanpercentile(gap[1:], [50 * (1 - level), 50 * (1 + level)], axis=0)
                about = labels([regime], target, "inpainted") | {"contrast": "matched", "removal": share}
                columns = {"tau_live": before[0], "tau_held": after[0], "did": gap[0], "ci_low": low, "ci_high": high}
                columns |= {"se": np.nanstd(gap[1:], axis=0, ddof=1), "n": float(sums.informing[t, live[0]])}
                yield rows(painted, about, columns)


def _curves(removed: Parts, painted: Parts, arms: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """R, (1 + resamples, dose), never falling, and I, (1 + resamples, dose, K); the first is that of all latents."""
    over = resampled_sums(removed.denominator[:, arms])
    with np.errstate(divide="ignore", invalid="ignore"):
        share = resampled_sums(removed.numerator[:, arms, 0]) / over
        found = [resampled_sums(painted.numerator[:, arms, k]) / over for k in range(len(painted.objects))]
    return np.maximum.accumulate(share, axis=1), np.stack(found, axis=2)


def _at(share: float, curves: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """I where R is a share, (1 + resamples, K); at the highest dose where R does not reach it."""
    removed, painted = curves
    after = np.clip((removed < share).sum(axis=1), 1, removed.shape[1] - 1)
    draws = np.arange(len(removed))
    low, high = removed[draws, after - 1], removed[draws, after]
    part = np.clip(np.divide(share - low, high - low, out=np.zeros(len(low)), where=high > low), 0, 1)[:, None]
    return (1 - part) * painted[draws, after - 1] + part * painted[draws, after]
