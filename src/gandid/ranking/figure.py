"""What the paper's figure shows beside a study's effects: the relation after each ablation, and insertion.

What is measured of them lies in a hidden folder of the run until both are whole, so that a run that was cut short goes on with the
batch of latents that it was at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import xarray as xr
from torch import Tensor

from gandid.files import remove
from gandid.interventions import Edit, Runner
from gandid.latents import latents
from gandid.ranking import after, insertion
from gandid.ranking.journal import Journal
from gandid.segmenters import Segmenter
from gandid.studies.store import write_dataset

AFTER, INSERTION = "after.zarr", "insertion.zarr"
PARTS = ".figure"  # what is measured of them


def expected_images(runner: Runner, edited: Sequence[int], objects: int, units: int, latents: int, held: int) -> int:
    """About how many images the figure of a study takes beside its arms and its ranking.

    Parameters
    ----------
    runner : Runner
    edited : sequence of int
        How many units are edited for each target.
    objects, units : int
        How many objects there are, and how many units stand for one. Objects are taken to share units as if these were drawn at
        random.
    latents, held : int
        Ranking latents, and held sets.
    """
    drawn = runner.units * (1 - (1 - units / runner.units) ** min(objects, after.OBJECTS))
    single = sum(2 * min(latents, after.LATENTS) * (1 + max(drawn - count, 0)) for count in edited)
    return latents + round(single) + len(edited) * inserted_images(runner, held)


def inserted_images(runner: Runner, held: int) -> int:
    """How many images the insertion of one target makes with so many held sets."""
    positions = len(insertion.regions(runner.map_size, 1))
    return insertion.LATENTS * (1 + (1 + held) * positions)


@dataclass
class FigureStores:
    """The two stores of a run's figure, `after.zarr` and `insertion.zarr`.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    runner, segmenter
        The networks.
    edits : mapping of str to Edit
        The study's edit by target.
    held : mapping of str to {site: control}
        The study's held arms under exact controls by name. All of them are arms of the insertion, and the first of them is that of
        the relation after an ablation.
    relation : xarray.Dataset
        See docs/relation.md.
    objects : sequence of str
        The classes that are objects.
    count : int
        How many units stand for an object.
    presence : float
        Share of the image from which on a class counts as present.
    seed : int
        Random seed for the latents.
    rows : int
        Images that may be made at once.
    """

    folder: Path
    runner: Runner
    segmenter: Segmenter
    edits: Mapping[str, Edit]
    held: Mapping[str, Mapping[str, str]]
    relation: xr.Dataset
    objects: Sequence[str]
    count: int
    presence: float
    seed: int
    rows: int

    def is_complete(self) -> bool:
        """Whether the run has both stores."""
        return (self.folder / AFTER).is_dir() and (self.folder / INSERTION).is_dir()

    def after_images(self) -> int:
        """How many images `write_after` makes."""
        singles = [1 + len(self._others(edit)) for edit in self.edits.values()]
        return len(self._ranked) * (2 * sum(singles) + (self._before is None) * (1 + len(self._units)))

    def insertion_images(self) -> int:
        """How many images `write_insertion` makes."""
        return len(self.edits) * inserted_images(self.runner, len(self.held))

    def write_after(self, advance: Callable[[int], None]) -> None:
        """Measure the relation after the ablations, and write `after.zarr`."""
        journal, (name, sites) = self._journal(AFTER), next(iter(self.held.items()))
        z, donors = (self._latents(self._ranked, stream) for stream in ("ranking", "donors"))
        ask = {"rows": self.rows, "journal": journal, "advance": advance}
        losses = partial(after.losses, self.runner, self.segmenter, z, **ask)
        before = losses(self._units) if self._before is None else self._before
        found = []
        for target, edit in self.edits.items():
            others = self._others(edit)
            loss = np.full((2, *before.shape), np.nan, np.float32)
            for regime, held in enumerate(({}, sites)):
                single = losses(others, edit, held, donors=donors if edit.values is None else None)
                loss[regime][:, np.isin(self._units, others)] = single
            compared = (self._units, edit.units, self._own, self.segmenter.classes, target, self.seed)
            found.append(after.compare(before, loss, *compared))
        about = {"latents": len(z), "units": max(map(len, self._own.values()))}
        self._write(AFTER, found, {"arm": ["live", name]}, about)

    def write_insertion(self, advance: Callable[[int], None]) -> None:
        """Insert every target, and write `insertion.zarr`."""
        journal, numbers = self._journal(INSERTION), range(insertion.LATENTS)
        ranking, z = self._latents(self.relation["latent"].values, "ranking"), self._latents(numbers, "effects")
        known = insertion.levels(self.runner, self.segmenter, ranking, self.presence, self.rows)
        found = []
        for target, edit in self.edits.items():
            asked = (target, edit.units, known, list(self.held.values()), self.rows)
            inserted = insertion.Insertion(self.runner, self.segmenter, *asked)
            counts = inserted.count(z, journal, advance)
            found.append(inserted.summarize(counts, z, numbers, self.seed))
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

    def _latents(self, numbers: Sequence[int] | np.ndarray, stream: str) -> Tensor:
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
