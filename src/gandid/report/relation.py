"""The section of the unit-object relation: a clustered heat map, a table to search, and where each unit is active.

Everything that opens or switches does so by the page's style alone; the script only adds search, order and the reading of single
cells, so that without it nothing is lost but comfort.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy.cluster import hierarchy

from gandid.did.words import VISIBLE
from gandid.relation.concentration import effective_units, share
from gandid.report import figures, pictures
from gandid.report.folder import Run

# A page that can be mailed: classes of the heat map, rows of the table (but at least LEAST units of each class), images.
CLASSES, ROWS, LEAST, IMAGES = 24, 1500, 5, 256
OUTLINED = 64  # pixels, at most, by which outlines are drawn: finer steps are not seen in a small image
BEST = 5  # classes that the card of a unit lists
# Strongest positive and negative value; paper or night shows through what is weaker.
POSITIVE, NEGATIVE = "#d55e00", "#0072b2"
MEASURES = {
    "ace": (
        "ACE",
        "average causal effect: what the class loses of the image when the unit alone is ablated, in % of the image",
    ),
    "iou": ("IoU", "overlap of the unit’s strongest activations with the class’s pixels"),
    "energy": ("Energy", "share of the unit’s squared activation that lies on the class’s pixels, in %"),
}


class Tree(NamedTuple):
    """How things were joined to clusters: their order, and the dendrogram as the data of an SVG path."""

    order: list[int]
    path: str
    box: str


def relation_section(run: Run, colours: dict[str, str]) -> dict[str, Any] | None:
    """What the page says of all units and classes; None if the run has no relation."""
    if run.relation is None:
        return None
    tables = {name: run.relation.pivot(index="unit", columns="object", values=name).fillna(0) for name in MEASURES}
    listed = _listed(run.relation, run)
    cards = _cards(run, run.relation, listed, colours)
    return {
        "heat": _heat(run, tables, colours),
        "rows": [_row(row, colours, set(cards["units"])) for row in listed.to_dict("records")],
        "complete": len(listed) == len(run.relation),
        "all": len(run.relation),
        **cards,
    }


def ranking(run: Run, target: str, slug: str) -> dict[str, Any] | None:
    """The chart of ACE over units for one target, and how concentrated it is."""
    if run.relation is None:
        return None
    rows = run.relation[run.relation["object"] == target].sort_values("ace", ascending=False, kind="stable")
    ace = rows["ace"].to_numpy()
    if not (ace > 0).any():
        return None
    mine = np.flatnonzero(rows["unit"].isin(run.units(target)))
    said = (
        f"The {len(mine)} ablated units carry {100 * share(ace, mine):.0f} % of the positive ACE of all {len(rows)}; "
        f"it is as concentrated as if {effective_units(ace):.0f} units shared it evenly."
    )
    best = rows.iloc[0]
    alt = (
        f"Chart of ACE over units for {target}. Largest: unit {best['unit']}, {100 * best['ace']:.2f} % of the image. "
    )
    return {"chart": figures.inline(figures.units(run, target), f"units-{slug}", alt + said), "words": said}


def _heat(run: Run, tables: dict[str, pd.DataFrame], colours: dict[str, str]) -> dict[str, Any]:
    """Units across, classes down, both in the order of their clusters by ACE; one pixel per pair."""
    shown = _shown(run, tables["ace"])
    ace = tables["ace"][shown].to_numpy()
    # Each class by its own strongest unit: a lamp is never as large as a rug.
    strongest = np.maximum(np.abs(ace).max(axis=0), 1e-12)
    across, down = _tree(ace / strongest), _tree((ace / strongest).T)
    units = [int(tables["ace"].index[place]) for place in across.order]
    classes = [shown[place] for place in down.order]
    grids = {name: table.loc[units, classes].to_numpy().T for name, table in tables.items()}
    tops = {
        name: np.abs(grid).max(axis=1) if name == "ace" else np.full(len(classes), grid.max())
        for name, grid in grids.items()
    }
    layers = [
        {
            "name": name,
            "title": title,
            "about": about,
            "src": pictures.signed_heat(grids[name] / np.maximum(tops[name], 1e-12)[:, None], POSITIVE, NEGATIVE),
            "alt": f"Heat map of {title} over {len(units)} units and {len(classes)} classes. "
            + "; ".join(_peak(name, units, of, row) for of, row in zip(classes, grids[name], strict=True)),
            "largest": [_value(name, row.max()) for row in grids[name]],
        }
        for name, (title, about) in MEASURES.items()
    ]
    places = {unit: place for place, unit in enumerate(units)}
    chosen = [
        (places[unit], row)
        for row, of in enumerate(classes)
        if of in run.targets
        for unit in run.units(of)
        if unit in places
    ]
    return {
        "layers": layers,
        "classes": [{"name": of, "colour": colours[of], "target": of in run.targets} for of in classes],
        "hidden": tables["ace"].shape[1] - len(classes),
        "units": units,
        "across": across,
        "down": down,
        "chosen": "".join(f"M{x} {y}h1v1h-1z" for x, y in chosen),
        "values": {name: _rounded(grid, 2 if name == "iou" else 4) for name, grid in grids.items()},
    }


def _shown(run: Run, ace: pd.DataFrame) -> list[str]:
    """The classes worth a line: the targets, then those that lose most to their best units."""
    strength = ace.clip(lower=0).max().sort_values(ascending=False, kind="stable")
    others = [name for name in strength.index if name not in run.targets and strength[name] > 0]
    chosen = {*run.targets, *others[: max(0, CLASSES - len(run.targets))]}
    return [name for name in run.background if name in chosen and name in ace.columns]


def _tree(rows: np.ndarray) -> Tree:
    """Cluster rows by Ward's method, neighbours next to each other, and draw how."""
    if len(rows) < 2:
        return Tree(list(range(len(rows))), "", "0 0 1 1")
    joined = hierarchy.linkage(rows, "ward", optimal_ordering=True)
    order = hierarchy.leaves_list(joined).tolist()
    centre = np.zeros(2 * len(rows) - 1)
    centre[order] = np.arange(len(rows)) + 0.5
    height = np.concatenate([np.zeros(len(rows)), joined[:, 2] / max(joined[-1, 2], 1e-12)])
    forks = []
    for fork, (one, other) in enumerate(joined[:, :2].astype(int), len(rows)):
        centre[fork] = (centre[one] + centre[other]) / 2
        low, high, top = (f"{1 - height[node]:.3g}" for node in (one, other, fork))
        forks.append(f"M{centre[one]:.4g} {low}V{top}H{centre[other]:.4g}V{high}")
    return Tree(order, "".join(forks), f"0 0 {len(rows)} 1")


def _listed(relation: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The pairs that the table lists: of each class its units of largest ACE, all if the page can bear them, and the ablated."""
    classes = relation["object"].nunique()
    each = max(LEAST, ROWS // max(classes, 1))
    order = relation.sort_values("ace", ascending=False, kind="stable")
    ablated = [order[(order["object"] == target) & order["unit"].isin(run.units(target))] for target in run.targets]
    kept = pd.concat([order.groupby("object", sort=False).head(each), *ablated]).index
    listed = order[order.index.isin(kept)]
    # The targets' pairs first, the largest effects at the top.
    first = listed["object"].isin(run.targets)
    return pd.concat([listed[first], listed[~first]])


def _row(row: dict[Any, Any], colours: dict[str, str], linked: set[int]) -> dict[str, Any]:
    return {
        "unit": int(row["unit"]),
        "object": row["object"],
        "colour": colours.get(row["object"], figures.UNKNOWN),
        "linked": int(row["unit"]) in linked,
        "ace": _value("ace", row["ace"]),
        "se": _value("ace", row["ace_se"]),
        "rough": not row.get("exact", True),
        "iou": _value("iou", row["iou"]),
        "energy": _value("energy", row["energy"]),
    }


def _cards(run: Run, relation: pd.DataFrame, listed: pd.DataFrame, colours: dict[str, str]) -> dict[str, Any]:
    """Per unit its most activating images, its region outlined; and those images, once each."""
    if run.activity is None or "top_latent" not in run.activity:
        return {"units": [], "cards": [], "pictures": {}, "aspect": "1"}
    found = run.activity
    listed_units = list(dict.fromkeys(listed["unit"]))
    # First places first, so that if there are too many images each unit keeps its best.
    kept = list(dict.fromkeys(found["top_latent"].sel(unit=listed_units).values.T.ravel().tolist()))[:IMAGES]
    images = found["image"].sel(shown=kept).values
    height, width = pictures.size_within(images.shape[1:3], OUTLINED)
    ablated = {target: set(run.units(target)) for target in run.targets}
    by_unit = dict(iter(relation.groupby("unit")))
    cards = []
    for unit in listed_units:
        rows = by_unit[unit]
        best = rows[rows["ace"] >= VISIBLE / 10].nlargest(BEST, "ace").to_dict("records")
        cards.append(
            {
                "unit": int(unit),
                "best": [_row(row, colours, set()) for row in best],
                "chosen": [target for target, units in ablated.items() if unit in units],
                "places": _places(found.sel(unit=unit), set(kept), (height, width), rows),
            }
        )
    return {
        "units": [card["unit"] for card in cards],
        "cards": cards,
        "pictures": {latent: pictures.thumbnail(image) for latent, image in zip(kept, images, strict=True)},
        "box": f"0 0 {width} {height}",
        "aspect": f"{width} / {height}",
        "threshold": found.attrs.get("iou_threshold", "quantile"),
    }


def _places(unit: xr.Dataset, kept: set[int], size: tuple[int, int], rows: pd.DataFrame) -> list[dict[str, Any]]:
    threshold = unit["threshold"]
    if "object" in threshold.dims:  # one per class: that of the class which the unit fits best
        threshold = threshold.sel(object=rows.sort_values("iou")["object"].iloc[-1])
    found = []
    for latent, activation in zip(unit["top_latent"].values, unit["top_map"].values, strict=True):
        if int(latent) not in kept:
            continue
        region = pictures.upsampled(activation.astype(np.float32), size) > float(threshold)
        found.append({"latent": int(latent), "path": pictures.path(region), "share": f"{100 * region.mean():.0f}"})
    return found


def _peak(measure: str, units: Sequence[int], of: str, row: np.ndarray) -> str:
    return f"{of} most by unit {units[int(row.argmax())]}, {_value(measure, row.max())}"


def _value(measure: str, value: float) -> str:
    """A value as text: ACE and energy in percent, IoU as it is."""
    if np.isnan(value):
        return "–"
    text = f"{value:.2f}" if measure == "iou" else f"{100 * value:.2f}" if measure == "ace" else f"{100 * value:.1f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def _rounded(grid: np.ndarray, digits: int) -> list[list[float]]:
    return [[round(float(value), digits) + 0.0 for value in row] for row in grid]
