"""Evidence: what the other stores of a run say of its effects, beside the panel that the effects are estimated from."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from gandid.did import dose, instrument, networks, placebos, sensitivity, sites
from gandid.did.checks import COLUMNS, DEFAULTS, Bounds, Row
from gandid.did.effects import Effects
from gandid.did.totals import objects_inpainted

STORES = ("dose", "sites", "placebos", "second")  # each a panel in the folder NAME.zarr of a run
CONFUSION = "confusion.csv"


def stores(folder: Path) -> dict[str, Any]:
    """What a run's folder has beside its panel: `STORES`, opened lazily, and `confusion`, by name."""
    there = [name for name in STORES if (folder / f"{name}.zarr").is_dir()]
    found: dict[str, Any] = {name: xr.open_zarr(folder / f"{name}.zarr", chunks=None) for name in there}
    if (folder / CONFUSION).is_file():
        found["confusion"] = pd.read_csv(folder / CONFUSION, index_col=0)
    return found


def weigh(effects: Effects, panel: xr.Dataset, found: Mapping[str, Any], bounds: Bounds = DEFAULTS) -> Effects:
    """Add to the effects of a panel what a run's other stores say of them.

    Parameters
    ----------
    effects
        What `gandid.did.estimate` says of the panel.
    panel
        The study's (docs/panel.md).
    found
        What there is of `stores`: `dose`, `sites`, `placebos` and `second`, panels of the study under variants of its design
        (docs/credibility.md), and `confusion`, the segmenter's matrix of true by named classes.
    bounds
        Of the checks.

    Returns
    -------
    Effects
        With the tables in `evidence`, by name: `dose`, `shapley`, `placebos`, `second`, `sensitivity` and `twins`, those that there is
        something to say in; and with their rows among the `checks`.
    """
    if effects.frame.empty:
        return effects
    level, tables = effects.level, dict[str, pd.DataFrame]()
    rows: list[Row] = [*placebos.random_object(panel), *sensitivity.baseline_area(panel)]
    if "dose" in found:
        tables["dose"] = dose.curve(found["dose"], level)
        rows += dose.checks(tables["dose"], bounds)
    if "sites" in found:
        tables["shapley"] = sites.shares(found["sites"], level)
        rows += sites.checks(tables["shapley"], found["sites"], panel)
    if "placebos" in found:
        tables["placebos"] = placebos.compare(panel, found["placebos"], level)
        rows += placebos.checks(tables["placebos"])
    confusion, corrected = found.get("confusion"), None
    if "second" in found:
        tables["second"] = instrument.second(panel, found["second"], level)
    if confusion is not None:
        corrected = instrument.corrected(panel, confusion, level)
    rows += instrument.checks(panel, tables.get("second"), confusion, bounds)
    parts = tables.get("dose"), tables.get("second"), corrected
    whole = sensitivity.table(effects.frame, panel, *parts, level=level)
    if whole["variation"].nunique() > 1:
        tables["sensitivity"] = whole
    if (effects.frame["control"] == "twin").any():
        tables["twins"] = networks.table(effects.frame, objects_inpainted(panel, level), level)
    checks = pd.concat([effects.checks, pd.DataFrame(rows, columns=COLUMNS)], ignore_index=True)
    return replace(effects, evidence=tables, checks=checks)
