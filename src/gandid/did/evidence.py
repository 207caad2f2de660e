"""Evidence: what the other stores of a run say of its effects, beside the panel that the effects are estimated from."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from gandid.did.effects import Effects

STORES = ("dose", "sites", "placebos", "second")  # each a folder NAME.zarr of the run


def stores(folder: Path) -> dict[str, Any]:
    """The stores of a run that are there, opened lazily, by name."""
    return {
        name: xr.open_zarr(folder / f"{name}.zarr", chunks=None)
        for name in STORES
        if (folder / f"{name}.zarr").is_dir()
    }


def weigh(effects: Effects, panel: xr.Dataset, found: Mapping[str, Any]) -> Effects:
    """Add to the effects of a panel what other stores say of them: tables, by name, and checks."""
    return replace(effects, evidence={})
