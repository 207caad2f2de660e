"""The three types of Liu et al. (2020): what becomes of an object when its units are ablated, and how sure that is.

They name them *type-1 entangled* (a flat distribution of ACE over units, hard to remove), *type-2 entangled* (concentrated,
removed, but other objects emerge in its place) and *disentangled* (concentrated, removed, nothing emerges). The thresholds that
make this a rule are the study's own. A type is claimed only if it holds whatever the pixels are that the segmenter does not recognize;
else it is *not identified*.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from gandid.estimation.contents import Contents
from gandid.estimation.halves import losses
from gandid.estimation.sums import Sums, gather
from gandid.outcomes.concentration import effective_units, gini, share
from gandid.stats import bootstrap

NOT_IDENTIFIED = "not identified"
TYPES = ("disentangled", "type-1", "type-2", NOT_IDENTIFIED)
COLUMNS = ["target", "removed", "inpainted_objects", "share_top", "gini", "effective_units", "type"]
COLUMNS += ["p_disentangled", "p_type_1", "p_type_2", "p_not_identified"]
COLUMNS += ["removed_bound", "inpainted_bound", "concentration_bound", "unknown"]
RESAMPLES = 2000
SEED = 0


class Thresholds(Protocol):
    """The thresholds, all shares; the configuration's `types`."""

    removed: float
    concentration: float
    inpainted: float


def classify(
    removed: npt.ArrayLike,
    inpainted: npt.ArrayLike,
    concentration: npt.ArrayLike,
    thresholds: Thresholds,
    unknown: npt.ArrayLike = 0.0,
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
    unknown
        Share of them that the segmenter does not recognize, part of `removed`: where the rule's answer depends on what they are, whether
        the target, other objects or neither, the type is `not identified`.
    """
    removed, inpainted, unknown = (np.asarray(values) for values in (removed, inpainted, unknown))
    spread = (removed < thresholds.removed) | (np.asarray(concentration) < thresholds.concentration)
    gone = removed - unknown >= thresholds.removed
    replaced, free = gone & (inpainted >= thresholds.inpainted), gone & (inpainted + unknown < thresholds.inpainted)
    return np.select([spread, replaced, free], ["type-1", "type-2", "disentangled"], NOT_IDENTIFIED)


def types(panel: xr.Dataset, relation: xr.Dataset, thresholds: Thresholds) -> pd.DataFrame:
    """The type of every target of a study, with the probability of each type over latents and segmenters.

    The type is that on which all segmenters that know the target agree, and not identified where they do not; a probability is the mean
    of theirs, as if one of them were drawn at random. Shares in the table are those of the first. Both sets of latents are resampled:
    those of the effects, jointly for `removed` and `inpainted`, in groups where there are many (docs/inference.md, "Large panels"), and,
    independently, those on which the units were ranked, for the concentration. The probability of a type is the share of `RESAMPLES`
    resamples of that type (Efron and Tibshirani 1998, "The problem of regions", of which this is the first-order answer).

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
    contents, rows = Contents(panel), []
    places = [contents.names.index("reference"), contents.place(contents.live)]
    seen = {s: gather(contents, places, s) for s in range(len(contents.segmenters)) if contents.rows(places, s)}
    for t, target in enumerate(contents.targets):
        ace = relation["ace"].sel(object=target).values
        if seen[0].shown[:, t].sum() < 2 or not (ace > 0).any():
            continue
        units = panel["units"].values[0, 0, t]
        units = units[units >= 0]
        resampled, own = share(_resampled_ace(relation, target, ace), units), share(ace, units)
        kinds, chances, first = set[str](), list[list[float]](), np.empty(0)
        for s, sums in seen.items():
            if target not in contents.classes[contents.known(s)] or sums.shown[:, t].sum() < 2:
                continue
            shares, draws = _shares(contents, sums, t, s)
            known = np.isfinite(draws).all(axis=1) & np.isfinite(resampled)
            removed, inpainted, unknown = draws[known].T
            drawn = classify(removed, inpainted, resampled[known], thresholds, unknown)
            chances.append([(drawn == name).mean() for name in TYPES])
            kinds.add(str(classify(shares[0], shares[1], own, thresholds, shares[2])))
            first = shares if s == 0 else first
        kind = kinds.pop() if len(kinds) == 1 else NOT_IDENTIFIED
        found = [target, *first[:2], own, gini(ace), effective_units(ace), kind, *np.mean(chances, axis=0)]
        rows.append([*found, thresholds.removed, thresholds.inpainted, thresholds.concentration, first[2]])
    return pd.DataFrame(rows, columns=COLUMNS)


def _shares(contents: Contents, sums: Sums, target: int, segmenter: int) -> tuple[np.ndarray, np.ndarray]:
    """Removed, in-painted by other objects and unrecognized share of the target's original pixels, live; with resamples (B, 3)."""
    inside = sums.inside[:, target, sums.index([contents.live])[0]]
    kinds = contents.kinds(contents.targets[target], segmenter)
    parts = [inside[:, kinds == kind].sum(axis=1) for kind in ("object", "unknown")]
    hole = inside.sum(axis=1)
    counts = np.stack([hole - inside[:, kinds == "target"].sum(axis=1), *parts], axis=1)
    return counts.sum(axis=0) / hole.sum(), bootstrap(counts, hole[:, None], RESAMPLES, SEED)


def _resampled_ace(relation: xr.Dataset, target: str, ace: np.ndarray) -> np.ndarray:
    """ACE of all units on the target, from resamples of the ranking's latents: (resamples, units)."""
    values = losses(relation, target)
    known = np.isfinite(values)
    draws = bootstrap(np.where(known, values, 0), known, RESAMPLES, SEED + 1)
    return np.where(np.isnan(draws), ace, draws)
