"""The three types of Liu et al. (2020): what becomes of an object when its units are ablated, and how sure that is.

They name them *type-1 entangled* (a flat distribution of ACE over units, hard to remove), *type-2 entangled* (concentrated,
removed, but other objects emerge in its place) and *disentangled* (concentrated, removed, nothing emerges). The thresholds that
make this a rule are the study's own.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from gandid.estimation.contents import Contents
from gandid.estimation.sums import gather
from gandid.outcomes.concentration import effective_units, gini, share
from gandid.stats import bootstrap

TYPES = ("disentangled", "type-1", "type-2")
COLUMNS = ["target", "removed", "inpainted_objects", "share_top", "gini", "effective_units", "type"]
COLUMNS += [
    "p_disentangled",
    "p_type_1",
    "p_type_2",
    "removed_bound",
    "inpainted_bound",
    "concentration_bound",
    "unknown",
]
RESAMPLES = 2000
SEED = 0


class Thresholds(Protocol):
    """The thresholds, all shares; the configuration's `types`."""

    @property
    def removed(self) -> float: ...

    @property
    def concentration(self) -> float: ...

    @property
    def inpainted(self) -> float: ...


def classify(
    removed: npt.ArrayLike, inpainted: npt.ArrayLike, concentration: npt.ArrayLike, thresholds: Thresholds
) -> np.ndarray:
    """The type of an object, of arrays that broadcast against one another.

    Parameters
    ----------
    removed
        Share of the target's original pixels that no longer carry its label, live.
    inpainted
        Share of them that carry another object.
    concentration
        Share of the positive ACE on the target that its edited units carry.
    thresholds
        `type-1` if `removed` or `concentration` is below its threshold; else `type-2` if `inpainted` reaches its own, and
        `disentangled` if not.
    """
    spread = (np.asarray(removed) < thresholds.removed) | (np.asarray(concentration) < thresholds.concentration)
    replaced = np.asarray(inpainted) >= thresholds.inpainted
    return np.select([spread, replaced], ["type-1", "type-2"], "disentangled")


def types(panel: xr.Dataset, relation: xr.Dataset, thresholds: Thresholds) -> pd.DataFrame:
    """The type of every target of a study, with the probability of each type under resampling of latents.

    Both sets of latents are resampled: those of the effects, jointly for `removed` and `inpainted`, in groups where there are many
    (docs/inference.md, "Large panels"), and, independently, those on which the units were ranked, for the concentration. The probability
    of a type is the share of `RESAMPLES` resamples of that type (Efron and Tibshirani 1998, "The problem of regions", of which this is
    the first-order answer).

    Parameters
    ----------
    panel
        See docs/panel.md.
    relation
        See docs/relation.md; `drop` gives the ACE per latent, or `expected` does where a screening spared the ablation.
    thresholds
        See `classify`.

    Returns
    -------
    pandas.DataFrame
        One row per target, columns `COLUMNS`. A target that fewer than two images show, or on which no unit has a positive ACE, has none.
    """
    contents = Contents(panel)
    sums, rows = gather(contents, [contents.place(contents.live)]), []
    (live,) = sums.index([contents.live])
    for t, target in enumerate(contents.targets):
        ace = relation["ace"].sel(object=target).values
        if sums.shown[:, t].sum() < 2 or not (ace > 0).any():
            continue
        inside, kinds = sums.inside[:, t, live], contents.kinds(target)
        hole = inside.sum(axis=1)
        lost = hole - inside[:, kinds == "target"].sum(axis=1)
        painted, unnamed = (inside[:, kinds == kind].sum(axis=1) for kind in ("object", "unknown"))
        removed, inpainted = lost.sum() / hole.sum(), painted.sum() / hole.sum()
        draws = bootstrap(np.stack([lost, painted], axis=1), hole[:, None], RESAMPLES, SEED)
        units = panel["units"].values[0, 0, t]
        units = units[units >= 0]
        shares, own = share(_resampled_ace(relation, target, ace), units), share(ace, units)
        known = np.isfinite(draws).all(axis=1) & np.isfinite(shares)
        drawn = classify(draws[known, 0], draws[known, 1], shares[known], thresholds)
        kind = str(classify(removed, inpainted, own, thresholds))
        row = [target, removed, inpainted, own, gini(ace), effective_units(ace), kind]
        row += [(drawn == name).mean() for name in TYPES]
        row += [thresholds.removed, thresholds.inpainted, thresholds.concentration, unnamed.sum() / hole.sum()]
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _resampled_ace(relation: xr.Dataset, target: str, ace: np.ndarray) -> np.ndarray:
    """ACE of all units on the target, from resamples of the ranking's latents: (resamples, units)."""
    loss = relation["drop"].sel(object=target)
    if "expected" in relation:  # after a screening, for the units that were not ablated on all latents
        loss = loss.where(relation["exact"], relation["expected"].sel(object=target))
    values = loss.transpose("latent", "unit").values
    known = np.isfinite(values)
    draws = bootstrap(np.where(known, values, 0), known, RESAMPLES, SEED + 1)
    return np.where(np.isnan(draws), ace, draws)
