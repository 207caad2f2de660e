"""Join the panels of one study whose latents were measured apart."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from gandid.errors import UsageError
from gandid.studies import figure, folder
from gandid.studies.store import LATENTS_PER_CHUNK, SUMMED, PanelStore, read_sums, verified


def merge(runs: Sequence[Path], out: Path, finish: folder.Finish | None = None) -> xr.Dataset:
    """Write a run with the latents of all `runs` into the folder `out`.

    Parameters
    ----------
    runs : sequence of Path
        Folders of runs of one study (the same weights, arms, seed and versions) with disjoint latents.
    out : Path
        A new folder.
    finish : callable, optional
        Is given `out` and the effects of the whole once they are there; see `Study.execute`.

    Returns
    -------
    xarray.Dataset
        The joined panel, its latents in the order of `runs`.

    Raises
    ------
    UsageError
        If they are not of one study, share a latent, or `out` exists.
    """
    if len(runs) < 2:
        raise UsageError("name two runs or more to merge")
    if out.exists():
        raise UsageError(f"{out} exists: choose another --out, or remove it")
    panels = [folder.open_panel(run) for run in runs]
    configs = [folder.read_config(run) for run in runs]
    for run, config, panel in zip(runs[1:], configs[1:], panels[1:], strict=True):
        told = folder.differences({**configs[0], "chunk": None}, {**config, "chunk": None})
        if not told and not panels[0]["units"].equals(panel["units"]):
            told = "their units differ: name them with --target CLASS=UNIT,UNIT,..."
        if told:
            raise UsageError(f"{runs[0]} and {run} are not of one study ({told})")
    numbers = np.concatenate([panel["latent"].values for panel in panels])
    known, counts = np.unique(numbers, return_counts=True)
    if (counts > 1).any():
        raise UsageError(f"latent {known[counts > 1][0]} is in more than one of the runs: merge disjoint ones")

    with folder.explained(out):
        out.mkdir(parents=True)
    try:
        _join(runs, panels, out)
        folder.write_config(out, {**configs[0], "latents": len(numbers), "until": None, "chunk": None})
        for name in ("relation.csv", "examples.npz"):
            if (runs[0] / name).is_file():
                shutil.copy(runs[0] / name, out / name)
        for name in ("relation.zarr", figure.AFTER, figure.INSERTION):
            having = next((run for run in runs if (run / name).is_dir()), None)
            if having:
                shutil.copytree(having / name, out / name)
        merged = folder.open_panel(out)
        effects = folder.write_estimates(out, merged)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    if finish:
        finish(out, effects)
    return merged


def _join(runs: Sequence[Path], panels: Sequence[xr.Dataset], out: Path) -> None:
    first = panels[0]
    empty = first.isel(latent=slice(0)).drop_encoding().load()
    empty = empty.assign({name: xr.zeros_like(first[name]) for name in SUMMED})
    joined = PanelStore.create(out / "panel.zarr", empty)
    growing = [name for name, variable in first.variables.items() if variable.dims[:1] == ("latent",)]
    for run, panel in zip(runs, panels, strict=True):
        n = panel.sizes["latent"]
        sums = read_sums(run / "panel.zarr")
        for start in range(0, n, LATENTS_PER_CHUNK):
            with verified(run):
                some = panel.isel(latent=slice(start, start + LATENTS_PER_CHUNK)).load()
            joined.append(
                {str(name): some[name].values for name in growing},
                sums if start == 0 else {name: np.zeros_like(value) for name, value in sums.items()},
            )
