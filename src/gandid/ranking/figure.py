"""What the paper's figure shows beside a study's effects: the relation after each ablation, and insertion.

What is measured of them lies in a hidden folder of the run until both are whole, so that a run that was cut short goes
on with the batch of latents that it was at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import xarray as xr
from torch import Tensor

from gandid.files import remove
from gandid.interventions import Edit, Runner
from gandid.latents import latents
from gandid.panel.store import write_dataset
from gandid.ranking import after, insertion
from gandid.ranking.journal import Journal
from gandid.segmenters import Segmenter

AFTER, INSERTION = "after.zarr", "insertion.zarr"
PARTS = ".figure"  # what is measured of them


def expected_images(runner: Runner, edited: Sequence[int], objects: int, units: int, latents: int, held: int) -> int:
    """About how many images the figure of a study takes beside its arms and its ranking.

    `edited` says how many units are edited for each target; there are so many `objects`, and so many `units` stand for
    each, which objects are taken to share as if they were drawn at random; `latents` is how many rank the units, and
    `held` counts held sets.
    """
    drawn = runner.units * (1 - (1 - units / runner.units) ** min(objects, after.OBJECTS))
    single = sum(2 * min(latents, after.LATENTS) * (1 + max(drawn - count, 0)) for count in edited)
    return latents + round(single) + len(edited) * insertion.images(runner.map_size, held)


@dataclass
class FigureStores:
    """The two stores of a run's figure, `after.zarr` and `insertion.zarr`, in the run's `folder`."""

    folder: Path
    runner: Runner
    segmenter: Segmenter
    edits: Mapping[str, Edit]
    """The study's edit by target."""
    held: Mapping[str, Mapping[str, str]]
    """The study's held arms under exact controls, {site: control} by name: the arms of the insertion, and the first of them
    that of the relation after an ablation."""
    relation: xr.Dataset
    objects: Sequence[str]
    """The classes that are objects."""
    count: int
    """How many units stand for an object."""
    presence: float
    """Share of the image from which on a class counts as present."""
    seed: int
    rows: int
    """Images that may be made at once."""

    def after_images(self) -> int:
        """How many images `write_after` makes."""
        singles = [1 + len(self._others(edit)) for edit in self.edits.values()]
        return len(self._ranked) * (2 * sum(singles) + (self._before is None) * (1 + len(self._units)))

    def insertion_images(self) -> int:
        """How many images `write_insertion` makes."""
        return len(self.edits) * insertion.images(self.runner.map_size, len(self.held))

    def write_after(self, advance: Callable[[int], None]) -> None:
        """Measure the relation after the ablations, and write `after.zarr`."""
        journal, (name, sites) = self._journal(AFTER), next(iter(self.held.items()))
        z, donors = (self._latents(self._ranked, stream) for stream in ("ranking", "donors"))
        losses = partial(after.losses, self.runner, self.segmenter, z, rows=self.rows, journal=journal, advance=advance)
        before = losses(self._units) if self._before is None else self._before
        found = []
        for target, edit in self.edits.items():
            others = self._others(edit)
            loss = np.full((2, *before.shape), np.nan, np.float32)
            for regime, held in enumerate(({}, sites)):
                single = losses(others, edit, held, donors=donors if edit.values is None else None)
                loss[regime][:, np.isin(self._units, others)] = single
            units, classes = (self._units, edit.units, self._own), self.segmenter.classes
            found.append(after.compare(before, loss, *units, classes, target, self.seed))
        about = {"latents": len(z), "units": max(map(len, self._own.values()))}
        self._write(AFTER, found, {"arm": ["live", name]}, about)

    def write_insertion(self, advance: Callable[[int], None]) -> None:
        """Insert every target, and write `insertion.zarr`."""
        journal, numbers = self._journal(INSERTION), range(insertion.LATENTS)
        ranking, z = self._latents(self.relation["latent"].values, "ranking"), self._latents(numbers, "effects")
        known = insertion.levels(self.runner, self.segmenter, ranking, self.presence, self.rows)
        found = []
        for target, edit in self.edits.items():
            held = list(self.held.values())
            inserted = insertion.Insertion(self.runner, self.segmenter, target, edit.units, known, held, self.rows)
            found.append(inserted.summarize(inserted.count(z, journal, advance), z, numbers, self.seed))
        arms = ["live", *self.held]
        self._write(INSERTION, found, {"arm": arms, "arm2": ["original", *arms]}, {"latents": len(z)})

    def clear(self) -> None:
        """Remove what was kept to go on with."""
        remove(self.folder / PARTS)

    @cached_property
    def _own(self) -> dict[str, tuple[int, ...]]:
        return after.object_units(self.relation, self.objects, self.count)

    @cached_property
    def _units(self) -> list[int]:
        """All units that stand for an object, in order."""
        return sorted({unit for units in self._own.values() for unit in units})

    def _others(self, edit: Edit) -> list[int]:
        return [unit for unit in self._units if unit not in edit.units]

    @property
    def _ranked(self) -> np.ndarray:
        """The ranking latents that are used, by number."""
        return self.relation["latent"].values[: after.LATENTS]

    @cached_property
    def _before(self) -> np.ndarray | None:
        """What the ranking found with nothing else ablated (n, units, classes); None where it left something out."""
        found = self.relation["drop"].sel(latent=self._ranked, unit=self._units).transpose("latent", "unit", "object")
        return found.values if np.isfinite(found.values).all() else None

    def _latents(self, numbers: Iterable[int], stream: str) -> Tensor:
        return latents(self.seed, map(int, numbers), self.runner.generator.latent_dim, stream).to(self.runner.device)

    def _journal(self, name: str) -> Journal:
        """The journal of one store, for these edits, held sets and units alone."""
        edits = [(target, edit.units, edit.alpha, edit.values) for target, edit in self.edits.items()]
        asked = hashlib.sha256(repr((edits, self.held, self._own)).encode()).hexdigest()[:12]
        (self.folder / PARTS).mkdir(exist_ok=True)
        return Journal(self.folder / PARTS / f"{name}-{asked}")

    def _write(self, name: str, found: Sequence[xr.Dataset], coords: Mapping, attrs: Mapping) -> None:
        joined = xr.concat(found, dim=xr.Variable("target", list(self.edits)))
        write_dataset(self.folder / name, joined.assign_coords(coords).assign_attrs(attrs))
