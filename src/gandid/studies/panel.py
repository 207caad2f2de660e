"""The panel: its variables, dimensions and attributes (docs/panel.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from gandid.interventions import Edit, Runner
from gandid.segmenters import Segmenter
from gandid.studies.design import QUANTILES, Design


def empty_panel(
    runner: Runner, segmenter: Segmenter, design: Design, attrs: Mapping[str, Any], *, judged: bool
) -> xr.Dataset:
    """A panel of this design without latents; `judged` says whether there is a discriminator."""
    edits, arms, sites = list(design.edits.values()), design.arms, list(runner.downstream)
    sizes = {
        "latent": 0,
        "target": len(edits),
        "arm": len(arms),
        "object": len(segmenter.classes),
        "site": len(sites),
        "quantile": len(QUANTILES),
        "v": runner.map_size[0],
        "u": runner.map_size[1],
        "y": runner.image_size[0],
        "x": runner.image_size[1],
    }
    layout: dict[str, tuple[tuple[str, ...], Any]] = {
        "pixels": (("latent", "target", "arm", "object"), np.int32),
        "inside": (("latent", "target", "arm", "object"), np.int32),
        "realism": (("latent", "target", "arm"), np.float32),
        "uncertain": (("latent", "target", "arm"), np.float32),
        "strain": (("latent", "target", "arm", "site", "quantile"), np.float32),
        "natural": (("latent", "site"), np.float32),
        "gain": (("latent", "target"), np.float32),
        "gain_outside": (("latent", "target"), np.float32),
        "gain_error": (("latent", "target"), np.float32),
        "placebo_gap": (("latent", "target"), np.float32),
        "baseline_gap": (("latent", "arm"), np.float32),
        "gain_map": (("target", "v", "u"), np.float32),
        "inpainted_map": (("target", "arm", "y", "x"), np.float32),
    }
    if not judged:
        del layout["realism"]
    if not hasattr(segmenter, "labels_and_confidence"):
        del layout["uncertain"]
    resamples = any(edit.values is None for edit in edits)
    if resamples or not runner.upstream:
        del layout["placebo_gap"]
    variables: dict[str, Any] = {
        name: (dims, np.zeros([sizes[dim] for dim in dims], dtype)) for name, (dims, dtype) in layout.items()
    }
    variables["units"] = (("target", "rank"), _padded([edit.units for edit in edits], -1, np.int32))
    if not resamples:
        variables["values"] = (("target", "rank"), _levels(edits))
    twins = [list(its.values()) for its in design.twins.values()]
    if twins:
        of_twins = ("twin", "target", "rank")  # as many of each target as are edited of the generator
        variables["twin_units"] = (
            of_twins,
            np.stack([_padded([edit.units for edit in its], -1, np.int32) for its in twins]),
        )
        if not resamples:
            variables["twin_values"] = of_twins, np.stack([_levels(its) for its in twins])
    regimes = (*design.held, *design.twins)
    all_regimes = (*regimes, *(held for held in regimes if held.unedited))
    edited = [False, True, *(True for _ in regimes), *(False for held in regimes if held.unedited)]
    return xr.Dataset(
        variables,
        coords={
            "latent": np.arange(0),
            "target": list(design.edits),
            "arm": arms,
            "object": list(segmenter.classes),
            "site": sites,
            "quantile": list(QUANTILES),
            "edit": ("arm", np.array(edited)),
            "control": ("arm", ["none", "none", *(h.control for h in all_regimes)]),
            "held": ("arm", ["none", "none", *(h.which for h in all_regimes)]),
            "responds": ("site", np.array([runner.responds[site] for site in sites], bool)),
            "background": ("object", np.array([c in segmenter.background for c in segmenter.classes])),
        },
        attrs=dict(attrs),
    )


def _levels(edits: Sequence[Edit]) -> np.ndarray:
    """What the units of each edit are moved to, (target, rank)."""
    return _padded([edit.values.tolist() for edit in edits if edit.values is not None], np.nan, np.float32)


def _padded(rows: list[Any], blank: float, dtype: Any) -> np.ndarray:
    """Rows of different lengths as one array, `blank` where a row ends early."""
    table = np.full((len(rows), max(map(len, rows))), blank, dtype)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table
