"""The relation after an ablation: whether, and by which units, other objects are made once a target's units are gone.

With the target's units ablated, each other unit is ablated too, alone, and what that takes from every class is its ACE
*after*. It is measured live and with a held set: an object that normalization amplifies has more to lose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import xarray as xr
from scipy import stats
from torch import Tensor

from gandid.interventions import Arm, Edit, Runner, ablate
from gandid.ranking.journal import Journal
from gandid.ranking.passes import batches, passes
from gandid.ranking.rankings import area
from gandid.ranking.ratios import ratios_of_sums
from gandid.ranking.relation import top_units
from gandid.segmenters import Segmenter

LATENTS = 24  # the first of the ranking's
OBJECTS = 12  # whose units are looked at, at most: those of largest area


def object_units(relation: xr.Dataset, objects: Sequence[str], count: int) -> dict[str, tuple[int, ...]]:
    """The `count` best units of each of the `OBJECTS` objects of largest area, in the order of `objects`."""
    areas = relation["area"].mean("latent").sel(object=list(objects)).values
    largest = sorted(np.argsort(-areas, kind="stable")[:OBJECTS])
    return {objects[i]: top_units(relation, objects[i], count) for i in largest}


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
    journal: Journal | None = None,
    advance: Callable[[int], None] = lambda images: None,
) -> np.ndarray:
    """What the ablation of each of `units` to zero, alone, takes from every class, in an arm edited and held already.

    The arm is given by `edit` and `held`; `donors` (n, latent_dim) are the other latents of resample ablation, and
    `rows` is how many images may be made at once. Returns shares of the image (n, units, classes), float32. `advance`
    is called with the number of images made.
    """
    alone = [ablate((unit,)) for unit in units]
    edits = [edit, *(replace(edit, then=one) if edit else one for one in alone)]
    arms, classes = [Arm(one, held or {}) for one in edits], len(segmenter.classes)
    journal = journal or Journal(None)

    def measure(batch: slice) -> np.ndarray:
        part, others = z[batch], donors[batch] if donors is not None else None
        areas = np.empty((len(arms), len(part), classes))
        for which, _, labels in passes(runner, segmenter, part, arms, rows, others):
            areas[which] = area(labels.flatten(0, 1), classes).unflatten(0, labels.shape[:2]).numpy()
        return (areas[:1] - areas[1:]).transpose(1, 0, 2)

    found = [np.empty((0, len(units), classes), np.float32)]
    for batch in batches(len(z), rows):
        size = batch.stop - batch.start
        found.append(journal.take((size, len(units), classes), partial(measure, batch)))
        advance(size * len(arms))
    return np.concatenate(found)


def compare(
    before: np.ndarray,
    after: np.ndarray,
    units: Sequence[int],
    edited: Sequence[int],
    own: Mapping[str, Sequence[int]],
    classes: Sequence[str],
    target: str,
    seed: int = 0,
) -> xr.Dataset:
    """The relation before and after one target's units are ablated.

    `before` (n, u, classes) are the losses of area to each of the `units` (u) alone, with nothing else ablated, and
    `after` (arms, n, u, classes) the same with the target's units, `edited`, ablated, live and held; NaN for those
    units themselves. `own` are the units of each object, `seed` is that of the bootstrap over latents. See
    docs/relation.md, "After the ablation".
    """
    left = ~np.isin(units, edited)
    others = {classes.index(name): np.isin(units, its) & left for name, its in own.items() if name != target}
    others = {c: its for c, its in others.items() if its.any()}
    whole = np.full((len(before), len(classes)), np.nan)
    parts = np.full((len(before), len(after), len(classes)), np.nan)
    for c, its in others.items():
        whole[:, c] = before[:, its, c].sum(axis=1, dtype=np.float64)
        parts[..., c] = after[:, :, its, c].sum(axis=2, dtype=np.float64).T
    sums = np.concatenate([whole.mean(axis=0)[None], parts.mean(axis=0)])
    rank = stats.rankdata(-sums, method="min", axis=1, nan_policy="omit")
    found = {f"ratio_{name}": values for name, values in ratios_of_sums(parts, whole, seed).items()}
    found["ratio"] = found.pop("ratio_value")
    found |= {"rank_before": np.broadcast_to(rank[0], rank[1:].shape), "rank": rank[1:]}
    variables = {name: (("arm", "object"), values) for name, values in found.items()}
    return xr.Dataset(variables, coords={"object": list(classes)})
