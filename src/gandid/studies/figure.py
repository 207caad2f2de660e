"""What the paper's figure shows beside a study's effects: the relation after each ablation, and insertion.

Both are measured target by target. What is done of them lies in a hidden folder of the run until all of them are, so that a run
that was cut short goes on with the target that it was at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from gandid.files import remove, replacing
from gandid.interventions import Runner
from gandid.relation import after, insertion
from gandid.segmenters import Segmenter
from gandid.studies.design import Design
from gandid.studies.latents import latents
from gandid.studies.store import explained, write_dataset

AFTER, INSERTION = "after.zarr", "insertion.zarr"
PARTS = ".figure"  # what is done of them

Advance = Callable[[int], None]  # told how many images were made


def is_complete(folder: Path) -> bool:
    """Whether a run has what its figure shows."""
    return (folder / AFTER).is_dir() and (folder / INSERTION).is_dir()


def expected_images(runner: Runner, edited: Sequence[int], objects: int, units: int, latents: int, held: int) -> int:
    """About how many images the figure of a study takes beside its arms and its ranking.

    Parameters
    ----------
    runner : Runner
    edited : sequence of int
        How many units are edited of each target.
    objects, units : int
        How many objects there are, and how many units stand for one. That two objects share a unit is taken to be as likely as
        if their units were drawn at random.
    latents, held : int
        Ranking latents, and held sets.
    """
    drawn = runner.units * (1 - (1 - units / runner.units) ** min(objects, after.OBJECTS))
    single = sum(2 * min(latents, after.LATENTS) * (1 + max(drawn - count, 0)) for count in edited)
    return latents + round(single) + len(edited) * insertion.images(runner.map_size, held)


@dataclass
class Additions:
    """What is measured for the figure of one study.

    Parameters
    ----------
    folder : Path
        Of the run.
    runner, segmenter
        The networks.
    design : Design
        The arms of the study. Its held sets under an exact control are those of insertion, the first of them that of the relation
        after an ablation.
    relation : xarray.Dataset
        See docs/relation.md.
    objects : sequence of str
        The classes that are objects.
    units : int
        How many units stand for an object.
    presence : float
        Share of the image from which a class counts as present.
    seed : int
        Of the latents.
    rows : int
        Images that may be made at once.
    """

    folder: Path
    runner: Runner
    segmenter: Segmenter
    design: Design
    relation: xr.Dataset
    objects: Sequence[str]
    units: int
    presence: float
    seed: int
    rows: int

    def after_images(self) -> int:
        """How many images `write_after` makes."""
        return self._made(self._own.all) // 2 * (self._before is None) + sum(
            self._made(self._own.others(edit)) for edit in self.design.edits.values()
        )

    def insertion_images(self) -> int:
        """How many images `write_insertion` makes."""
        return len(self.design.edits) * insertion.images(self.runner.map_size, len(self.design.exact))

    def write_after(self, advance: Advance) -> None:
        """Measure the relation after the ablations, and write `after.zarr`."""
        own, held = self._own, self.design.exact[0]
        z = self._latents(self._ranking, "ranking")
        losses = partial(after.losses, self.runner, self.segmenter, z, rows=self.rows, on_progress=advance)
        before = self._before
        if before is None:
            made = self._made(own.all) // 2
            before = self._part("before", made, advance, lambda: {"loss": losses(own.all)})["loss"]
        found = np.full((len(self.design.edits), 2, *before.shape), np.nan, np.float32)
        for t, edit in enumerate(self.design.edits.values()):
            others = own.others(edit)
            donors = self._latents(self._ranking, "donors") if edit.values is None else None

            def both(edit: Any = edit, others: list[int] = others, donors: Tensor | None = donors) -> dict[str, Any]:
                regimes: tuple[dict[str, str], ...] = {}, held.sites(self.runner.downstream)
                return {"loss": np.stack([losses(others, edit, sites, donors=donors) for sites in regimes])}

            places = [own.all.index(unit) for unit in others]
            found[t][:, :, places] = self._part(f"after-{t}", self._made(others), advance, both)["loss"]
        units = {target: edit.units for target, edit in self.design.edits.items()}
        classes = self.segmenter.classes
        compared = after.compare(before, found, own, units, classes, held.name, self.runner.units, self.seed)
        write_dataset(self.folder / AFTER, compared)

    def write_insertion(self, advance: Advance) -> None:
        """Insert every target, and write `insertion.zarr`."""
        held, numbers = self.design.exact, range(insertion.LATENTS)
        ranking = self._latents(self.relation["latent"].values, "ranking")
        known = insertion.levels(self.runner, self.segmenter, ranking, self.presence, self.rows)
        z = self._latents(numbers, "effects")
        sites = [one.sites(self.runner.downstream) for one in held]
        made = insertion.images(self.runner.map_size, len(held))
        found, units = {}, {target: edit.units for target, edit in self.design.edits.items()}
        for t, target in enumerate(units):

            def inserted(target: str = target) -> dict[str, Any]:
                ask: dict[str, Any] = {"rows": self.rows, "on_progress": advance}
                one = insertion.measure(self.runner, self.segmenter, z, target, units[target], known, sites, **ask)
                return one._asdict()

            found[target] = insertion.Inserted(**self._part(f"insertion-{t}", made, advance, inserted))
        arms, classes = ["live", *(one.name for one in held)], self.segmenter.classes
        seen = insertion.summarize(found, units, known, arms, classes, self.runner.map_size, numbers, self.seed)
        write_dataset(self.folder / INSERTION, seen)

    def clear(self) -> None:
        """Remove what was kept to go on with."""
        with explained(self.folder):
            remove(self.folder / PARTS)

    @cached_property
    def _own(self) -> after.Own:
        return after.Own.of(self.relation, self.objects, self.units)

    @property
    def _ranking(self) -> np.ndarray:
        """The ranking latents that are used, by number."""
        return self.relation["latent"].values[: after.LATENTS]

    @cached_property
    def _before(self) -> np.ndarray | None:
        """What the ranking found with nothing else ablated; None where it left something out."""
        found = (
            self.relation["drop"].sel(latent=self._ranking, unit=self._own.all).transpose("latent", "unit", "object")
        )
        return found.values if np.isfinite(found.values).all() else None

    def _made(self, units: Sequence[int]) -> int:
        """Images of `after.losses` of some units, live and held."""
        return 2 * len(self._ranking) * (1 + len(units))

    def _latents(self, numbers: Sequence[int] | np.ndarray, stream: str) -> Tensor:
        generator: Any = self.runner.generator
        return latents(self.seed, map(int, numbers), generator.latent_dim, stream).to(self.runner.device)

    def _part(self, name: str, images: int, advance: Advance, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A part as it was kept, or else measured and kept; `images` is what it takes."""
        path = self.folder / PARTS / f"{name}.npz"
        with explained(path):
            if not path.is_file():
                part = measure()
                path.parent.mkdir(exist_ok=True)
                with replacing(path) as aside, aside.open("wb") as file:
                    np.savez_compressed(file, **part)
                return part
            advance(images)
            with np.load(path) as stored:
                return dict(stored)
