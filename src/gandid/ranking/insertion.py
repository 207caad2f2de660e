"""Insertion: a target's units set to what they are where the target is seen, in one region after another.

As GAN Dissection inserts objects (Bau et al. 2018, section 3.2): in the region the units take their *object-conditional means*, the
rest of the layer stays as it is. Where, and on what ground, does the target then appear, and does normalization, which the
inserted values make divide by more, hinder it or help?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from gandid import outcomes
from gandid.interventions import REFERENCE, Arm, Runner, insert
from gandid.ranking.journal import Journal
from gandid.ranking.passes import batches, passes, pictures
from gandid.ranking.ratios import ratio, ratios_of_sums
from gandid.segmenters import Segmenter

LATENTS = 24  # of the effects', the first: not those from which the levels come
GRID = 4  # positions along each side of the layer's map, at most


@dataclass(frozen=True)
class Levels:
    """What a layer is where each class is seen."""

    means: Tensor
    """(classes, units): means over latents and positions, weighted by the class's share of each cell; NaN of a class never seen."""
    cells: np.ndarray
    """(classes,): cells of the layer's map that the class covers, on average over the images that show it; 0 if none does."""


def levels(runner: Runner, segmenter: Segmenter, z: Tensor, presence: float, rows: int) -> Levels:
    """Object-conditional means of all units for all classes, on latents `z` (n, latent_dim).

    An image shows a class if the class covers at least a share `presence` of it; other images count for the means but not for
    the class's size.
    """
    classes = len(segmenter.classes)
    total = torch.zeros(classes, runner.units, dtype=torch.float64)
    covered: list[Tensor] = []
    for part in z.split(rows):
        images, readings = runner.read(part, [REFERENCE])
        maps = readings.layer.float()
        # One image at a time: a map for each class is many times its labels.
        masks = (F.one_hot(labels, classes).permute(2, 0, 1).float() for labels in segmenter(images[0]))
        share = torch.stack([F.interpolate(mask[None], size=maps.shape[2:], mode="area")[0] for mask in masks])
        total += torch.einsum("nchw,nuhw->cu", share, maps).cpu().double()
        covered.append(share.sum(dim=(2, 3)).cpu().double())
    cells = torch.cat(covered)
    shown = cells >= max(presence, 1e-9) * math.prod(runner.map_size)
    size = (cells * shown).sum(dim=0) / shown.sum(dim=0).clamp_min(1)
    return Levels((total / cells.sum(dim=0)[:, None]).float(), size.numpy())


def grid(length: int) -> list[float]:
    """Positions along one side of the map at which a target is inserted, in cells from its beginning."""
    count = min(GRID, length)
    return [(i + 0.5) * length / count for i in range(count)]


def regions(map_size: Sequence[int], cells: float) -> Tensor:
    """Square patches of about `cells` cells, centred on the `grid` of the map's two sides: (positions, h, w), 0 or 1.

    A patch that would leave the map is moved into it.
    """
    h, w = map_size
    side = int(np.clip(round(math.sqrt(cells)), 1, min(map_size)))
    centres = [(v, u) for v in grid(h) for u in grid(w)]
    patches = torch.zeros(len(centres), h, w)
    for patch, centre in zip(patches, centres, strict=True):
        top, left = (int(np.clip(round(at - side / 2), 0, n - side)) for at, n in zip(centre, map_size, strict=True))
        patch[top : top + side, left : left + side] = 1
    return patches


class Insertion:
    """One target inserted at every position of the grid, live and under every held set.

    Parameters
    ----------
    runner, segmenter
        The networks.
    target : str
        Class that is looked for; its means are inserted.
    units : tuple of int
        Channels that are set to them.
    known : Levels
    held : sequence of {site: control}
        Held sets.
    rows : int
        Images that may be made at once.
    """

    def __init__(
        self,
        runner: Runner,
        segmenter: Segmenter,
        target: str,
        units: tuple[int, ...],
        known: Levels,
        held: Sequence[Mapping[str, str]],
        rows: int,
    ):
        self._runner, self._segmenter, self._rows = runner, segmenter, rows
        self._class, self._classes = segmenter.classes.index(target), segmenter.classes
        patches = regions(runner.map_size, float(known.cells[self._class]))
        self.areas = F.interpolate(patches[None], size=runner.image_size, mode="nearest")[0].bool().numpy()
        """(positions, H, W), bool: the regions in pixels."""
        self._regimes, self._possible = 1 + len(held), bool(known.cells[self._class] > 0)
        edits = [insert(units, known.means[self._class], patch) for patch in patches]
        self._arms = [Arm(edit, sites) for sites in ({}, *held) for edit in edits]

    def count(
        self, z: Tensor, journal: Journal | None = None, advance: Callable[[int], None] = lambda images: None
    ) -> np.ndarray:
        """Pixels of each region by the class that they carried before: (n, 1 + arms, positions, classes), float32.

        All of them first, then, live and under each held set, those that carry the target after the insertion. All 0 for a target
        that was never seen. `advance` is called with the number of images made.
        """
        shape = 1 + self._regimes, len(self.areas), len(self._classes)
        found = [np.zeros((0, *shape), np.float32)]
        for batch in batches(len(z), self._rows):
            size = batch.stop - batch.start
            work = partial(self._count, z[batch], (size, *shape))
            found.append((journal or Journal(None)).take((size, *shape), work))
            advance(size * (1 + len(self._arms)))
        return np.concatenate(found)

    def _count(self, z: Tensor, shape: tuple[int, ...]) -> np.ndarray:
        counts = np.zeros(shape, np.int32)
        _, _, positions, classes = shape
        original = np.empty(0)
        for which, _, labels in passes(self._runner, self._segmenter, z, [REFERENCE, *self._arms], self._rows):
            for block, seen in enumerate(labels.cpu().numpy(), which.start):
                if block == 0:
                    original = seen
                    counts[:, 0] = np.stack([outcomes.inside(seen, area, classes) for area in self.areas], axis=1)
                else:
                    regime, position = divmod(block - 1, positions)
                    filled = self.areas[position] & (seen == self._class)
                    counts[:, 1 + regime, position] = outcomes.inside(original, filled, classes)
        return counts if self._possible else 0 * counts

    def summarize(self, counts: np.ndarray, z: Tensor, numbers: Sequence[int], seed: int = 0) -> xr.Dataset:
        """Where the target appears, on what ground, in every arm, and one example; see docs/relation.md, "Insertion".

        `counts` are those of `count` for `z`, `numbers` the latents' own, and `seed` that of the bootstrap over latents.
        """
        ground = counts.astype(np.int64) * (np.arange(len(self._classes)) != self._class)
        before, appeared = ground[:, 0], ground[:, 1:]
        by_ground = ratios_of_sums(appeared.sum(axis=2), before.sum(axis=1), seed)
        total = ratios_of_sums(appeared.sum(axis=(2, 3))[..., None], before.sum(axis=(1, 2))[:, None], seed)
        places = ratio(appeared.sum(axis=(0, 3)), before.sum(axis=(0, 2)))
        variables = {name: (("arm", "object"), values) for name, values in by_ground.items()}
        variables |= {f"total_{name}": ("arm", values[:, 0]) for name, values in total.items()}
        v, u = map(grid, self._runner.map_size)
        found = xr.Dataset(
            variables
            | {
                "weight": ("object", before.sum(axis=(0, 1))),
                "appeared_map": (("arm", "v", "u"), places.reshape(-1, len(v), len(u))),
            },
            coords={"object": list(self._classes), "v": v, "u": u},
        )
        return found.rename(value="appeared", total_value="total").assign(self._example(counts, z, numbers))

    def _example(self, counts: np.ndarray, z: Tensor, numbers: Sequence[int]) -> dict:
        """One latent without and with the insertion at one position, in every arm; zeros if there is none to show."""
        size, blocks = self._runner.image_size, 1 + self._regimes
        image, label = np.zeros((blocks, *size, 3), np.uint8), np.zeros((blocks, *size), np.int32)
        latent, position = choose(counts[:, 0], counts[:, 1], self._class) if self._possible else (-1, -1)
        if latent >= 0:
            arms = [REFERENCE, *self._arms[position :: len(self.areas)]]
            for which, images, labels in passes(
                self._runner, self._segmenter, z[latent : latent + 1], arms, self._rows
            ):
                image[which], label[which] = pictures(images[:, 0]), labels[:, 0].cpu().numpy()
        return {
            "image": (("arm2", "y", "x", "channel"), image),
            "label": (("arm2", "y", "x"), label),
            "region": (("y", "x"), self.areas[position] if latent >= 0 else np.zeros(size, bool)),
            "shown_latent": numbers[latent] if latent >= 0 else -1,
        }


def choose(before: np.ndarray, appeared: np.ndarray, target: int) -> tuple[int, int]:
    """The latent and the position to show: neither the best nor the worst that insertion does.

    Among those whose region shows nothing of the target before and some of it after (live), that of the median share; among
    all whose region shows nothing of it before, if it never appears; (-1, -1) if there are none of these either.

    Parameters
    ----------
    before, appeared : array of shape (n, positions, classes)
    target : int
        Number of its class.
    """
    share = appeared.sum(axis=2) / np.maximum(before.sum(axis=2), 1)
    free = before[:, :, target] == 0
    for candidates in (free & (share > 0), free):
        if candidates.any():
            places = np.argwhere(candidates)
            order = np.argsort(share[candidates], kind="stable")
            latent, position = places[order[(len(order) - 1) // 2]]
            return int(latent), int(position)
    return -1, -1
