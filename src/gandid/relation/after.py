"""The relation after an ablation: whether, and through which units, other objects are made once a target's units are gone.

With the target's units ablated, each other unit is ablated too, alone, and what that takes from every class is its ACE *after*.
Measured with everything live and again with a held set, it shows whether it is normalization that changes the relation: an
object that normalization amplifies has more to lose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from scipy import stats
from torch import Tensor

from gandid.did.inference import bootstrap
from gandid.interventions import Arm, Edit, Runner, ablate
from gandid.relation.ablations import area
from gandid.relation.measures import top_units
from gandid.relation.passes import batches, passes
from gandid.segmenters import Segmenter

LATENTS = 24  # of the ranking's, the first
OBJECTS = 12  # whose units are looked at, at most: those of largest area
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Own:
    """The objects that are looked at, and the units that make each, best first."""

    units: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, relation: xr.Dataset, objects: Sequence[str], count: int) -> Own:
        """The `count` units of largest ACE on each of the `OBJECTS` objects of largest area."""
        areas = relation["area"].mean("latent").sel(object=list(objects)).values
        largest = sorted(np.argsort(-areas, kind="stable")[:OBJECTS])
        return cls({objects[i]: top_units(relation, objects[i], count) for i in largest})

    @property
    def all(self) -> list[int]:
        """All these units, in order."""
        return sorted({unit for units in self.units.values() for unit in units})

    def others(self, edit: Edit) -> list[int]:
        """All of them that an edit leaves alone."""
        return [unit for unit in self.all if unit not in edit.units]


def losses(
    runner: Runner,
    segmenter: Segmenter,
    z: Tensor,
    units: Sequence[int],
    edit: Edit | None = None,
    held: Mapping[str, str] | None = None,
    *,
    rows: int,
    donors: Tensor | None = None,
    on_progress: Callable[[int], None] = lambda images: None,
) -> np.ndarray:
    """What the ablation of each of `units` to zero, alone, takes from every class, in an arm that is edited and held already.

    Parameters
    ----------
    z, donors : Tensor of shape (n, latent_dim)
        Latents, and the others of resample ablation.
    edit, held
        The arm that each unit's ablation is added to.
    rows : int
        Images that may be made at once.
    on_progress : callable
        Told how many images have been made since the last call.

    Returns
    -------
    array of shape (n, units, classes)
        Shares of the image, float32.
    """
    alone = [ablate((unit,)) for unit in units]
    edits = [edit, *(replace(edit, then=one) if edit else one for one in alone)]
    arms = [Arm(one, held or {}) for one in edits]
    areas = np.empty((len(arms), len(z), len(segmenter.classes)))
    for some in batches(len(z), rows):
        part = z[some], donors[some] if donors is not None else None
        for which, _, labels in passes(runner, segmenter, part[0], arms, rows, part[1]):
            areas[which, some] = area(labels.flatten(0, 1), areas.shape[2]).unflatten(0, labels.shape[:2]).numpy()
            on_progress(labels.shape[0] * labels.shape[1])
    return (areas[:1] - areas[1:]).transpose(1, 0, 2).astype(np.float32)


def compare(
    before: np.ndarray,
    after: np.ndarray,
    own: Own,
    edits: Mapping[str, Sequence[int]],
    classes: Sequence[str],
    held: str,
    units: int,
    seed: int = 0,
) -> xr.Dataset:
    """The relation before and after each target's units are ablated.

    Parameters
    ----------
    before : array of shape (n, u, classes)
        Losses of area to each of the units `own.all` alone, with nothing else ablated.
    after : array of shape (targets, 2, n, u, classes)
        The same with the target's units ablated, live and held; NaN for those units themselves.
    own : Own
    edits : mapping of str to sequence of int
        Each target's units.
    classes : sequence of str
    held : str
        Name of the held arm.
    units : int
        Units of the layer.
    seed : int
        Of the bootstrap over latents.

    Returns
    -------
    xarray.Dataset
        See docs/relation.md, "After the ablation".
    """
    targets, numbers = list(edits), own.all
    shape = (len(targets), 2, len(classes))
    ace = np.full((len(targets), 2, 2, units, len(classes)), np.nan, np.float32)
    found = {name: np.full(shape, np.nan) for name in ("ratio", "ratio_low", "ratio_high", "rank_correlation")}
    found |= {name: np.full(shape, np.nan) for name in ("rank_before", "rank")}
    did = {name: np.full((shape[0], shape[2]), np.nan) for name in ("ratio_did", "ratio_did_low", "ratio_did_high")}
    for t, target in enumerate(targets):
        left = np.array([unit not in edits[target] for unit in numbers])
        ace[t, :, 0][:, numbers] = before.mean(axis=0)
        ace[t, :, 1][:, numbers] = after[t].mean(axis=1)
        sums = np.full((3, len(classes)), np.nan)  # before, after live, after held
        for name, its in own.units.items():
            mine = np.array([unit in its for unit in numbers]) & left
            if name == target or not mine.any():
                continue
            c = classes.index(name)
            whole = before[:, mine, c].sum(axis=1, dtype=np.float64)
            parts = after[t][:, :, mine, c].sum(axis=2, dtype=np.float64)  # (2, n)
            sums[:, c] = whole.mean(), *parts.mean(axis=1)
            if whole.sum() > 0:
                found["ratio"][t, :, c] = parts.sum(axis=1) / whole.sum()
                draws = bootstrap(parts.T, np.stack([whole, whole], axis=1), seed=seed)
                found["ratio_low"][t, :, c], found["ratio_high"][t, :, c] = interval(draws)
                did["ratio_did"][t, c] = found["ratio"][t, 0, c] - found["ratio"][t, 1, c]
                did["ratio_did_low"][t, c], did["ratio_did_high"][t, c] = interval(draws[:, 0] - draws[:, 1])
            single = ace[t, 0, 0, :, c][numbers][left], *ace[t, :, 1, :, c][:, numbers][:, left]
            found["rank_correlation"][t, :, c] = [_spearman(single[0], one) for one in single[1:]]
        ranks = stats.rankdata(-sums, method="min", axis=1, nan_policy="omit")
        found["rank_before"][t], found["rank"][t] = ranks[0], ranks[1:]
    return xr.Dataset(
        {"ace": (("target", "arm", "state", "unit", "object"), ace)}
        | {name: (("target", "arm", "object"), values) for name, values in found.items()}
        | {name: (("target", "object"), values) for name, values in did.items()},
        coords={
            "target": targets,
            "arm": ["live", held],
            "state": ["before", "after"],
            "unit": np.arange(units),
            "object": list(classes),
        },
        attrs={"latents": len(before), "units": max(map(len, own.units.values()))},
    )


def interval(draws: np.ndarray) -> np.ndarray:
    """Percentile interval of each column of (resamples, ...): (2, ...); NaN where hardly any resample has a value."""
    usable = np.isfinite(draws).mean(axis=0) > 0.5
    return np.where(usable, np.nanpercentile(np.where(usable, draws, 0), INTERVAL, axis=0), np.nan)


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's correlation; NaN where one of them is constant."""
    varied = len(one) > 1 and np.ptp(one) > 0 and np.ptp(other) > 0
    return float(stats.spearmanr(one, other).statistic) if varied else np.nan
