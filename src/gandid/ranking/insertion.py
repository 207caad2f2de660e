"""Insertion: a target's units set to what they are where the target is seen, in one region after another.

As GAN Dissection inserts objects (Bau et al. 2018, section 3.2): in the region the units take their *object-conditional
means*, the rest of the layer stays as it is. Where, and on what ground, does the target then appear, and does
normalization, which the inserted values make divide by more, hinder it or help?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from gandid.errors import UsageError
from gandid.interventions import REFERENCE, Arm, Runner, insert
from gandid.outcomes.counts import pixels
from gandid.ranking.journal import Journal
from gandid.ranking.passes import batches, passes, pictures
from gandid.ranking.ratios import ratios_of_sums
from gandid.segmenters import Segmenter, labelled

LATENTS = 24  # of the effects', the first: not those from which the levels come
GRID = 4  # positions along each side of the layer's map, at most


@dataclass(frozen=True)
class Levels:
    """What a layer is where each class is seen."""

    means: Tensor
    """(classes, units): means weighted by the class's share of each cell; NaN for a class never seen."""
    cells: np.ndarray
    """(classes,): cells of the map that the class covers, on average over the images that show it; 0 if none does."""
    classes: Sequence[str]
    images: int
    """On how many they were measured."""

    def shown(self, target: str) -> Tensor:
        """What units are set to for an object to be inserted, (units,); raises `UsageError` where it was never seen."""
        means = self.means[list(self.classes).index(target)]
        if not means.isfinite().all():
            unknown = "it is not known what its units are where it is (more --ranking-latents may show it)"
            raise UsageError(f"no {target} is seen in {self.images} images: {unknown}")
        return means


def levels(runner: Runner, segmenter: Segmenter, z: Tensor, presence: float, rows: int) -> Levels:
    """Object-conditional means of all units for all classes, on latents `z` (n, latent_dim).

    An image shows a class if the class covers at least a share `presence` of it; other images count for the means but
    not for the class's size.
    """
    classes = len(segmenter.classes)
    total = torch.zeros(classes, runner.units, dtype=torch.float64)
    covered: list[Tensor] = []
    for part in z.split(rows):
        images, readings = runner.read(part, [REFERENCE])
        maps = readings.layer.float()
        # One image at a time: a map for each class is many times its labels.
        masks = (F.one_hot(labels, classes).permute(2, 0, 1).float() for labels in labelled(segmenter, images[0]))
        share = torch.stack([F.interpolate(mask[None], size=maps.shape[2:], mode="area")[0] for mask in masks])
        with torch.autocast(z.device.type, enabled=False):  # which would round what is summed
            total += torch.einsum("nchw,nuhw->cu", share, maps).cpu().double()
        covered.append(share.sum(dim=(2, 3)).cpu().double())
    cells = torch.cat(covered)
    shown = cells >= max(presence, 1e-9) * math.prod(runner.map_size)
    size = (cells * shown).sum(dim=0) / shown.sum(dim=0).clamp_min(1)
    return Levels((total / cells.sum(dim=0)[:, None]).float(), size.numpy(), segmenter.classes, len(z))


def regions(map_size: Sequence[int], cells: float) -> Tensor:
    """Square patches of about `cells` cells at `GRID` x `GRID` positions of a map: (positions, h, w), 0 or 1.

    A patch that would leave the map is moved into it.
    """
    side = int(np.clip(round(math.sqrt(cells)), 1, min(map_size)))
    grids = [(np.arange(count) + 0.5) * n / count for n in map_size for count in [min(GRID, n)]]
    centres = list(product(*grids))
    patches = torch.zeros(len(centres), *map_size)
    for patch, centre in zip(patches, centres, strict=True):
        top, left = (int(np.clip(round(at - side / 2), 0, n - side)) for at, n in zip(centre, map_size, strict=True))
        patch[top : top + side, left : left + side] = 1
    return patches


def images(map_size: Sequence[int], held: int) -> int:
    """How many images `Insertion.count` makes on `LATENTS` latents with so many held sets."""
    return LATENTS * (1 + (1 + held) * len(regions(map_size, 1)))


@dataclass
class Insertion:
    """One target inserted at every position of the grid, live and under every held set."""

    runner: Runner
    segmenter: Segmenter
    target: str
    units: tuple[int, ...]
    """Channels that are set to the target's means."""
    known: Levels
    held: Sequence[Mapping[str, str]]
    """Held sets, {site: control}."""
    rows: int
    """Images that may be made at once."""

    def __post_init__(self) -> None:
        self.number = self.segmenter.classes.index(self.target)
        self.is_possible = bool(self.known.cells[self.number] > 0)
        patches = regions(self.runner.map_size, float(self.known.cells[self.number]))
        self.areas = F.interpolate(patches[None], size=self.runner.image_size, mode="nearest")[0].bool()
        edits = [insert(self.units, self.known.means[self.number], patch) for patch in patches]
        self.arms = [Arm(edit, sites) for sites in ({}, *self.held) for edit in edits]

    def count(
        self, z: Tensor, journal: Journal | None = None, advance: Callable[[int], None] = lambda images: None
    ) -> np.ndarray:
        """Pixels of each region by the class that they carried before: (n, 1 + arms, positions, classes), float32.

        All of them first, then, live and under each held set, those that carry the target after the insertion; none for
        a target that was never seen. `advance` is called with the number of images made.
        """
        journal = journal or Journal(None)
        shape = 2 + len(self.held), len(self.areas), len(self.segmenter.classes)
        found = [np.zeros((0, *shape), np.float32)]
        for batch in batches(len(z), self.rows) if self.is_possible else ():
            size = batch.stop - batch.start
            found.append(journal.take((size, *shape), partial(self._count, z[batch], (size, *shape))))
            advance(size * (1 + len(self.arms)))
        return np.concatenate(found) if self.is_possible else np.zeros((len(z), *shape), np.float32)

    def _count(self, z: Tensor, shape: tuple[int, ...]) -> np.ndarray:
        counts, areas = torch.zeros(shape, dtype=torch.int32, device=z.device), self.areas.to(z.device)
        for which, _, labels in passes(self.runner, self.segmenter, z, [REFERENCE, *self.arms], self.rows):
            for block, seen in enumerate(labels, which.start):
                if block == 0:
                    original = seen
                    counts[:, 0] = torch.stack([pixels(seen, shape[-1], area) for area in areas], dim=1)
                else:
                    regime, position = divmod(block - 1, len(areas))
                    filled = areas[position] & (seen == self.number)
                    counts[:, 1 + regime, position] = pixels(original, shape[-1], filled)
        return counts.cpu().numpy()

    def summarize(self, counts: np.ndarray, z: Tensor, numbers: Sequence[int], seed: int = 0) -> xr.Dataset:
        """Where the target appears, on what ground, in every arm, and one example; see docs/relation.md, "Insertion".

        `counts` are those of `count` for `z`, `numbers` the latents' own, and `seed` that of the bootstrap over
        latents.
        """
        ground = counts.astype(np.int64) * (np.arange(counts.shape[-1]) != self.number)
        before, appeared = ground[:, 0], ground[:, 1:]
        by_ground = ratios_of_sums(appeared.sum(axis=2), before.sum(axis=1), seed)
        total = ratios_of_sums(appeared.sum(axis=(2, 3))[..., None], before.sum(axis=(1, 2))[:, None], seed)
        found = xr.Dataset(
            {name: (("arm", "object"), values) for name, values in by_ground.items()}
            | {f"total_{name}": ("arm", values[:, 0]) for name, values in total.items()}
            | {"weight": ("object", before.sum(axis=(0, 1)))},
            coords={"object": list(self.segmenter.classes)},
        )
        return found.rename(value="appeared", total_value="total").assign(self._example(counts, z, numbers))

    def _example(self, counts: np.ndarray, z: Tensor, numbers: Sequence[int]) -> dict[str, Any]:
        """One latent without and with the insertion at one position, in every arm; zeros if there is none to show."""
        size, blocks = self.runner.image_size, 2 + len(self.held)
        image, label = np.zeros((blocks, *size, 3), np.uint8), np.zeros((blocks, *size), np.int32)
        region, shown = np.zeros(size, bool), -1
        if self.is_possible and (chosen := choose(counts[:, 0], counts[:, 1], self.number)):
            latent, position = chosen
            region, shown = self.areas[position].numpy(), numbers[latent]
            arms, z = [REFERENCE, *self.arms[position :: len(self.areas)]], z[latent : latent + 1]
            for which, images, labels in passes(self.runner, self.segmenter, z, arms, self.rows):
                image[which], label[which] = pictures(images[:, 0]), labels[:, 0].cpu().numpy()
        return {
            "image": (("arm2", "y", "x", "channel"), image),
            "label": (("arm2", "y", "x"), label),
            "region": (("y", "x"), region),
            "shown_latent": shown,
        }


def choose(before: np.ndarray, appeared: np.ndarray, target: int) -> tuple[int, int] | None:
    """The latent and the position to show: neither the best nor the worst that insertion does.

    Of the counts (n, positions, classes) of each region before, and of what appeared in it live, the one of median
    share, among those whose region shows nothing of the class `target` before and some of it after; if it never
    appears, among all that show nothing of it before. None if there are none of these either.
    """
    share = appeared.sum(axis=2) / np.maximum(before.sum(axis=2), 1)
    free = before[:, :, target] == 0
    for candidates in (free & (share > 0), free):
        if candidates.any():
            places = np.argwhere(candidates)
            order = np.argsort(share[candidates], kind="stable")
            latent, position = places[order[(len(order) - 1) // 2]]
            return int(latent), int(position)
    return None
