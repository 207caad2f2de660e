"""The three types of Liu et al. (2020): what becomes of an object when its units are ablated, and how sure that is.

They name them *type-1 entangled* (a flat distribution of ACE over units, hard to remove), *type-2 entangled* (concentrated,
removed, but other objects emerge in its place) and *disentangled* (concentrated, removed, nothing emerges). The thresholds that
make this a rule are the study's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from gandid.did import counts, estimands
from gandid.did.inference import bootstrap
from gandid.relation.concentration import effective_units, gini, share

TYPES = ("disentangled", "type-1", "type-2")
COLUMNS = (
    "target",
    "removed",
    "inpainted_objects",
    "share_top",
    "gini",
    "effective_units",
    "type",
    "p_disentangled",
    "p_type_1",
    "p_type_2",
    "removed_bound",
    "inpainted_bound",
    "concentration_bound",
    "unknown",
)
RESAMPLES = 2000
SEED = 0
UNKNOWN = 0.01  # share that turns into no class that the segmenter knows, from which it is told


class Bounds(Protocol):
    """The thresholds, all shares; see `gandid.studies.config.TypeBounds`."""

    @property
    def removed(self) -> float: ...

    @property
    def concentration(self) -> float: ...

    @property
    def inpainted(self) -> float: ...


def classify(
    removed: npt.ArrayLike, inpainted: npt.ArrayLike, concentration: npt.ArrayLike, bounds: Bounds
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
    bounds
        `type-1` if `removed` or `concentration` is below its bound; else `type-2` if `inpainted` reaches its bound, and
        `disentangled` if not.
    """
    spread = (np.asarray(removed) < bounds.removed) | (np.asarray(concentration) < bounds.concentration)
    replaced = np.asarray(inpainted) >= bounds.inpainted
    return np.select([spread, replaced], ["type-1", "type-2"], "disentangled")


def types(panel: xr.Dataset, relation: xr.Dataset, bounds: Bounds) -> pd.DataFrame:
    """The type of every target of a study, with the probability of each type under resampling of latents.

    Both sets of latents are resampled: those of the effects, jointly for `removed` and `inpainted`, in groups where there are
    many (docs/inference.md, "Large panels"), and, independently, those on which the units were ranked, for the concentration. The
    units stay those that were edited. The probability of a type is the share of `RESAMPLES` resamples of that type (Efron and
    Tibshirani 1998, "The problem of regions", of which this is the first-order answer).

    Parameters
    ----------
    panel
        See docs/panel.md.
    relation
        See docs/relation.md; `drop` gives the ACE per latent, or `expected` does where a screening spared the ablation.
    bounds
        Thresholds, see `classify`.

    Returns
    -------
    pandas.DataFrame
        One row per target, columns `COLUMNS`. A target that fewer than two images show, or on which no unit has a positive
        ACE, has none.
    """
    rows = []
    for target, lost, painted, unnamed, hole in _holes(estimands.prepare(panel)):
        units = estimands.units(panel, target)
        ace = relation["ace"].sel(object=target).values
        if not (ace > 0).any():
            continue
        removed, inpainted = lost.sum() / hole.sum(), painted.sum() / hole.sum()
        above = np.stack([lost, painted], axis=1)
        draws = bootstrap(above, np.stack([hole, hole], axis=1), RESAMPLES, SEED)
        shares = share(_resampled_ace(relation, target, ace), units)
        known = np.isfinite(draws).all(axis=1) & np.isfinite(shares)
        drawn = classify(draws[known, 0], draws[known, 1], shares[known], bounds)
        own = share(ace, units)
        rows.append(
            (
                target,
                removed,
                inpainted,
                own,
                gini(ace),
                effective_units(ace),
                str(classify(removed, inpainted, own, bounds)),
                *((drawn == name).mean() for name in TYPES),
                bounds.removed,
                bounds.inpainted,
                bounds.concentration,
                unnamed.sum() / hole.sum(),
            )
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def sentences(frame: pd.DataFrame, units: Mapping[str, int]) -> list[str]:
    """One sentence per target of what `types` found; `units` says how many of each were edited."""
    return [_sentence(row, units[row["target"]]) for row in frame.to_dict("records")]


def rule(frame: pd.DataFrame) -> str:
    """The thresholds in words, of a table that is not empty."""
    first = frame.iloc[0]
    return (
        f"Types: type-1 entangled if less than {100 * first['removed_bound']:g} % of an object is removed or its edited units "
        f"carry less than {100 * first['concentration_bound']:g} % of the positive ACE on it; otherwise type-2 entangled if "
        f"other objects take {100 * first['inpainted_bound']:g} % of its pixels or more, and disentangled if not."
    )


def _sentence(row: Mapping[Any, Any], units: int) -> str:
    chances = {name: row["p_" + name.replace("-", "_")] for name in TYPES}
    chance = chances.pop(row["type"])
    others = ", ".join(f"{name} {other:.2f}" for name, other in chances.items() if other >= 0.005)
    sure = "above 0.99" if 0.995 <= chance < 1 else f"{chance:.2f}"
    name = row["type"] if row["type"] == "disentangled" else f"{row['type']} entangled"
    parts = [
        f"{_percent(row['removed'])} of it is removed",
        f"{_percent(row['inpainted_objects'])} turns into other objects",
    ]
    if row["unknown"] >= UNKNOWN:
        parts.append(f"{_percent(row['unknown'])} into nothing that the segmenter knows")
    carry = "1 unit carries" if units == 1 else f"{units} units carry"
    return (
        f"{row['target']} is {name} with probability {sure}{f' ({others})' if others else ''}: "
        f"{', '.join(parts)}, and its {carry} {_percent(row['share_top'])} of the positive ACE."
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _holes(panel: xr.Dataset) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Of every target that two images show or more, its original pixels, summed by groups of latents (groups,).

    Those that are lost live, those that turn into other objects, those that turn into `unknown`, and all.
    """
    classes = [str(name) for name in panel["object"].values]
    live = panel.sel(arm=["reference", "live"])
    for counted in counts.gather(live):
        for t, target in enumerate(counted.targets):
            if counted.shown[:, t].sum() < 2:
                continue
            filled = counted.groups["filled"][:, t, 0]
            kinds = estimands.kinds(panel, target)
            painted, unnamed = (filled[:, kinds == kind].sum(axis=1) for kind in ("object", "unknown"))
            yield target, filled[:, classes.index(target)], painted, unnamed, counted.groups["hole"][:, t, 0]


def _resampled_ace(relation: xr.Dataset, target: str, ace: np.ndarray) -> np.ndarray:
    """ACE of all units on the target, from resamples of the ranking's latents: (resamples, units)."""
    loss = relation["drop"].sel(object=target)
    if "expected" in relation:  # after a screening, for the units that were not ablated on all latents
        loss = loss.where(relation["exact"], relation["expected"].sel(object=target))
    values = loss.transpose("latent", "unit").values
    known = np.isfinite(values)
    draws = bootstrap(np.where(known, values, 0), known, RESAMPLES, SEED + 1)
    return np.where(np.isnan(draws), ace, draws)
