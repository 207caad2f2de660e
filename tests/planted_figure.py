"""The figure's stores of the planted scene, which several tests measure."""

from pathlib import Path

import xarray as xr
from planted_scene import UNITS, SceneGenerator, SceneSegmenter

from gandid.interventions import Runner, ablate
from gandid.latents import latents
from gandid.ranking import relate
from gandid.ranking.figure import FigureStores

SEED = 3
HELD = {"capped:first": {"norm": "capped"}, "frozen:first": {"norm": "frozen"}}


def planted_stores(folder: Path, segmenter=None, edits=None, rows: int = 64, held=HELD) -> FigureStores:
    """Each object's unit ablated, with the site held in two ways; 30 latents rank the units."""
    runner, segmenter = Runner(SceneGenerator(), "scene"), segmenter or SceneSegmenter()
    relation = relate(runner, segmenter, latents(SEED, range(30), 1, "ranking"))
    edits = edits or {name: ablate((unit,)) for name, unit in UNITS.items()}
    return FigureStores(folder, runner, segmenter, edits, held, relation, list(UNITS), 1, 0.003, SEED, rows)


def read(path: Path) -> xr.Dataset:
    """A store, in memory."""
    with xr.open_zarr(path, chunks=None) as stored:
        return stored.load()
