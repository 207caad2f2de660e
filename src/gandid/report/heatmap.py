"""The relation of units and objects: a clustered heat map, and of each target its best units with the image that excites them most."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster import hierarchy

from gandid.report import pictures
from gandid.report.run import Run
from gandid.text import number

# Classes of the heat map, units listed per target, and units up to which neighbours are ordered best (it takes their cube).
CLASSES, LISTED, ORDERED = 24, 5, 256
# Pixels, at most, by which outlines are drawn: finer steps are not seen in a small image.
OUTLINED = 64


def section(run: Run) -> dict[str, Any] | None:
    """What the page says of units and objects; None if the run has no relation."""
    if run.relation is None or not len(run.relation):
        return None
    return {
        "heat": _heat(run, run.relation),
        "targets": [_target(run, run.relation, target) for target in run.targets],
        "units": run.relation["unit"].nunique(),
    }


def _heat(run: Run, relation: pd.DataFrame) -> dict[str, Any]:
    """Units across, classes down, both in the order of their clusters; each class on the scale of its strongest unit."""
    ace = relation.pivot(index="unit", columns="object", values="ace").fillna(0)
    strength = ace.clip(lower=0).max().sort_values(ascending=False, kind="stable")
    others = [name for name in strength.index if name not in run.targets and strength[name] > 0]
    shown = [name for name in [*run.targets, *others][: max(CLASSES, len(run.targets))] if name in ace.columns]
    values = ace[shown].to_numpy()
    values = values / np.maximum(np.abs(values).max(axis=0), 1e-12)
    across, down = _order(values), _order(values.T)
    grid = values[across][:, down].T
    units = ace.index.to_numpy()[across]
    rows = [
        {
            "name": str(shown[place]),
            "target": shown[place] in run.targets,
            "best": int(units[row.argmax()]),
            "ace": number(100 * float(ace[shown[place]].max()), 2),
            "src": pictures.signed_heat(row[None]),
        }
        for place, row in zip(down, grid, strict=True)
    ]
    return {"rows": rows, "hidden": ace.shape[1] - len(shown)}


def _order(rows: np.ndarray) -> np.ndarray:
    if len(rows) < 3:
        return np.arange(len(rows))
    joined = hierarchy.linkage(rows, "ward", optimal_ordering=len(rows) <= ORDERED)
    return np.asarray(hierarchy.leaves_list(joined))


def _target(run: Run, relation: pd.DataFrame, target: str) -> dict[str, Any]:
    rows = relation[relation["object"] == target].sort_values("ace", ascending=False, kind="stable")
    ace, ablated = run.ranked(target)
    positive = np.clip(ace, 0, None)
    share = 100 * positive[ablated].sum() / max(positive.sum(), 1e-12)
    return {
        "name": target,
        "facts": f"the {ablated.sum()} {run.pair.done} of {len(ace)} units carry {share:.0f}\u00a0% of the effects on it",
        "rows": [
            {
                "unit": int(row["unit"]),
                "ablated": int(row["unit"]) in run.units[target],
                "ace": number(100 * row["ace"], 2) + ("" if row.get("exact", True) else " (screened)"),
                "iou": number(row["iou"], 2),
                "energy": number(100 * row["energy"]),
                "picture": _excited(run, int(row["unit"])),
            }
            for row in rows[:LISTED].to_dict("records")
        ],
    }


def _excited(run: Run, unit: int) -> dict[str, str] | None:
    """The image that excites a unit most, with the region in which it is active."""
    found = run.activity
    if found is None or "top_latent" not in found or unit not in found["unit"].values:
        return None
    own = found.sel(unit=unit)
    latent = int(own["top_latent"].values[0])
    if latent not in found["shown"].values:
        return None
    image = found["image"].sel(shown=latent).values
    threshold = own["threshold"]
    # With one threshold per class, that of the class which the unit fits best.
    value = float(threshold.isel(object=int(own["iou"].values.argmax())) if "object" in threshold.dims else threshold)
    scale = min(1.0, OUTLINED / max(image.shape[:2]))
    size = round(image.shape[0] * scale), round(image.shape[1] * scale)
    region = pictures.upsampled(own["top_map"].values[0].astype(np.float32), size) > value
    return {
        "src": pictures.picture(image),
        "path": pictures.path(region),
        "box": f"0 0 {size[1]} {size[0]}",
        "alt": f"Latent {latent}: unit {unit} is active on {100 * region.mean():.0f} % of the image",
    }
