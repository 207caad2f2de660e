"""Insertion: a target's units set to what they are where the target is seen, in one region after another.

As GAN Dissection inserts objects (Bau et al. 2018, section 3.2): in the region the units take their *object-conditional means*, the
rest of the layer stays as it is. Where, and on what ground, does the target then appear, and does normalization, which the
inserted values make divide by more, hinder it or help?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from gandid import outcomes
from gandid.did.inference import bootstrap
from gandid.interventions import REFERENCE, Arm, Runner, insert
from gandid.relation.after import interval
from gandid.relation.passes import batches, passes, pictures
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

    An image shows a class if at least a share `presence` of it carries the class; the others count for the means but not for the
    class's size.
    """
    classes = len(segmenter.classes)
    total = torch.zeros(classes, runner.units, dtype=torch.float64)
    covered: list[Tensor] = []
    for some in z.split(rows):
        images, readings = runner.read(some, [REFERENCE])
        maps = readings.layer.float()
        # One image at a time: a map for each class is many times its labels.
        masks = (F.one_hot(seen, classes).permute(2, 0, 1).float() for seen in segmenter(images[0]))
        share = torch.stack([F.interpolate(mask[None], size=maps.shape[2:], mode="area")[0] for mask in masks])
        total += torch.einsum("nchw,nuhw->cu", share, maps).cpu().double()
        covered.append(share.sum(dim=(2, 3)).cpu().double())
    cells = torch.cat(covered)
    shown = cells >= max(presence, 1e-9) * math.prod(runner.map_size)
    size = (cells * shown).sum(dim=0) / shown.sum(dim=0).clamp_min(1)
    return Levels((total / cells.sum(dim=0)[:, None]).float(), size.numpy())


def regions(map_size: Sequence[int], cells: float) -> Tensor:
    """Square patches of about `cells` cells at the `centres` of a layer's map: (positions, h, w), 0 or 1.

    A patch that would leave the map is moved into it.
    """
    h, w = map_size
    side = side_of(map_size, cells)
    patches = torch.zeros(len(centres(map_size)), h, w)
    for patch, centre in zip(patches, centres(map_size), strict=True):
        top, left = (int(np.clip(round(at - side / 2), 0, n - side)) for at, n in zip(centre, map_size, strict=True))
        patch[top : top + side, left : left + side] = 1
    return patches


def side_of(map_size: Sequence[int], cells: float) -> int:
    """Side of a square patch of about `cells` cells."""
    return int(np.clip(round(math.sqrt(cells)), 1, min(map_size)))


def centres(map_size: Sequence[int]) -> list[tuple[float, float]]:
    """The positions (v, u) at which a target is inserted, in cells from the map's upper left corner."""
    return [(v, u) for v in _grid(map_size[0]) for u in _grid(map_size[1])]


def _grid(length: int) -> list[float]:
    count = min(GRID, length)
    return [(i + 0.5) * length / count for i in range(count)]


def images(map_size: Sequence[int], held: int) -> int:
    """How many images `measure` makes with so many held sets."""
    return LATENTS * (1 + (1 + held) * len(centres(map_size)))


class Inserted(NamedTuple):
    """What insertion of one target was seen to do."""

    before: np.ndarray
    """(n, positions, classes): pixels of each region that carried each class."""
    appeared: np.ndarray
    """(arms, n, positions, classes): those of them that carry the target after the insertion."""
    chosen: np.ndarray
    """The latent, by its place among the n, and the position that are shown; -1 both if there is none, see `choose`."""
    image: np.ndarray
    """(1 + arms, H, W, 3) uint8: unedited, and with the insertion in each arm."""
    label: np.ndarray
    """(1 + arms, H, W)."""
    region: np.ndarray
    """(H, W), bool."""


def measure(
    runner: Runner,
    segmenter: Segmenter,
    z: Tensor,
    target: str,
    units: tuple[int, ...],
    known: Levels,
    held: Sequence[Mapping[str, str]],
    *,
    rows: int,
    on_progress: Callable[[int], None] = lambda images: None,
) -> Inserted:
    """Insert a target at every position of the grid, live and under every held set.

    Parameters
    ----------
    z : Tensor of shape (n, latent_dim)
    target : str
        Class that is looked for; its means are inserted.
    units : tuple of int
        Channels that are set to them.
    known : Levels
    held : sequence of {site: control}
        Held sets.
    rows : int
        Images that may be made at once.
    on_progress : callable
        Told how many images have been made since the last call.
    """
    classes, c = len(segmenter.classes), segmenter.classes.index(target)
    patches = regions(runner.map_size, float(known.cells[c]))
    areas = F.interpolate(patches[None], size=runner.image_size, mode="nearest")[0].bool().numpy()  # (P, H, W)
    positions, regimes = len(patches), [{}, *held]
    arms = [Arm(insert(units, known.means[c], patch), sites) for sites in regimes for patch in patches]
    before = np.zeros((len(z), positions, classes), np.int32)
    appeared = np.zeros((len(regimes), *before.shape), np.int32)
    for some in batches(len(z), rows) if known.cells[c] > 0 else ():
        original = np.empty(0)
        for which, _, labels in passes(runner, segmenter, z[some], [REFERENCE, *arms], rows):
            for block, seen in enumerate(labels.cpu().numpy(), which.start):
                if block == 0:
                    original = seen
                    before[some] = np.stack([outcomes.inside(seen, region, classes) for region in areas], axis=1)
                else:
                    regime, position = divmod(block - 1, positions)
                    appeared[regime, some, position] = outcomes.inside(original, areas[position] & (seen == c), classes)
            on_progress(labels.shape[0] * labels.shape[1])
    latent, position = chosen = choose(before, appeared[0], c) if known.cells[c] > 0 else (-1, -1)
    image = np.zeros((1 + len(regimes), *runner.image_size, 3), np.uint8)
    label = np.zeros(image.shape[:3], np.int32)
    if latent < 0:
        return Inserted(before, appeared, np.array(chosen), image, label, np.zeros(runner.image_size, bool))
    shown = [REFERENCE, *arms[position::positions]]
    for which, images, labels in passes(runner, segmenter, z[latent : latent + 1], shown, rows):
        image[which] = pictures(images[:, 0])
        label[which] = labels[:, 0].cpu().numpy()
    return Inserted(before, appeared, np.array(chosen), image, label, areas[position])


def choose(before: np.ndarray, appeared: np.ndarray, target: int) -> tuple[int, int]:
    """The latent and the position to show: neither the best nor the worst that insertion does.

    Among those whose region shows nothing of the target before and some of it after (live), that of the median share; among
    all whose region shows nothing of it before, if it never appears; (-1, -1) if there are none of these either.

    Parameters
    ----------
    before, appeared : array of shape (n, positions, classes)
    target : int
        Its class.
    """
    share = appeared.sum(axis=2) / np.maximum(before.sum(axis=2), 1)
    free = before[:, :, target] == 0
    for among in (free & (share > 0), free):
        if among.any():
            places = np.argwhere(among)
            order = np.argsort(share[among], kind="stable")
            latent, position = places[order[(len(order) - 1) // 2]]
            return int(latent), int(position)
    return -1, -1


def summarize(
    found: Mapping[str, Inserted],
    units: Mapping[str, Sequence[int]],
    known: Levels,
    arms: Sequence[str],
    classes: Sequence[str],
    map_size: Sequence[int],
    latents: Sequence[int],
    seed: int = 0,
) -> xr.Dataset:
    """Where each inserted target appears, on what ground, in every arm.

    Parameters
    ----------
    found : mapping of str to Inserted
        By target.
    units : mapping of str to sequence of int
        Units that were set.
    known : Levels
    arms : sequence of str
        Names of the arms, the live one first.
    classes : sequence of str
    map_size : (h, w)
        Of the layer.
    latents : sequence of int
        Numbers of the latents.
    seed : int
        Of the bootstrap over latents.

    Returns
    -------
    xarray.Dataset
        See docs/relation.md, "Insertion".
    """
    rank = max(len(of) for of in units.values())
    each = []
    for target, one in found.items():
        c, its = classes.index(target), list(units[target])
        numbers, means = np.full(rank, -1, np.int32), np.full(rank, np.nan)
        numbers[: len(its)], means[: len(its)] = its, known.means[c, its].numpy()
        latent, position = one.chosen.tolist()
        shown = latent >= 0
        each.append(
            _appearance(one, c, arms, map_size, seed).assign(
                side=side_of(map_size, known.cells[c]),
                units=("rank", numbers),
                levels=("rank", means),
                image=(("arm2", "y", "x", "channel"), one.image),
                label=(("arm2", "y", "x"), one.label),
                region=(("y", "x"), one.region),
                shown_latent=latents[latent] if shown else -1,
                shown_centre=("end", np.array(centres(map_size)[position] if shown else (np.nan, np.nan))),
            )
        )
    grid = {"v": _grid(map_size[0]), "u": _grid(map_size[1])}
    names = {"arm": list(arms), "arm2": ["original", *arms], "object": list(classes), "end": list(grid)}
    joined = xr.concat(each, dim=xr.Variable("target", list(found)))
    return joined.assign_coords(names | grid).assign_attrs(latents=len(latents))


def _appearance(one: Inserted, target: int, arms: Sequence[str], map_size: Sequence[int], seed: int) -> xr.Dataset:
    """Where one target, whose class is the number `target`, appears: by ground, on all together, and by position."""
    elsewhere = np.arange(one.before.shape[2]) != target
    before, appeared = (
        one.before * elsewhere,
        np.moveaxis(one.appeared * elsewhere, 0, 1),
    )  # (n, [arms,] positions, classes)
    by_ground = _shares(appeared.sum(axis=2), before.sum(axis=1)[:, None], seed)
    total = _shares(appeared.sum(axis=(2, 3))[..., None], before.sum(axis=(1, 2))[:, None, None], seed)
    places = _ratio(appeared.sum(axis=(0, 3)), before.sum(axis=(0, 2)))
    return xr.Dataset(
        {name: (("arm", "object"), values) for name, values in by_ground.items()}
        | {"total" if name == "appeared" else f"total_{name}": ("arm", of[:, 0]) for name, of in total.items()}
        | {
            "weight": ("object", before.sum(axis=(0, 1))),
            "appeared_map": (
                ("arm", "v", "u"),
                places.reshape(len(arms), *(len(_grid(length)) for length in map_size)),
            ),
        }
    )


def _shares(parts: np.ndarray, whole: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Ratios of sums over latents, live minus each arm, and percentile intervals of both.

    `parts` (n, arms, k) over `whole` (n, 1, k): arrays of shape (arms, k).
    """
    n, arms, k = parts.shape
    value = _ratio(parts.sum(axis=0), whole.sum(axis=0))
    draws = bootstrap(parts.reshape(n, -1), np.broadcast_to(whole, parts.shape).reshape(n, -1), seed=seed)
    draws = draws.reshape(-1, arms, k)
    low, high = interval(draws)
    did_low, did_high = interval(draws[:, :1] - draws)
    return {
        "appeared": value,
        "low": low,
        "high": high,
        "did": value[:1] - value,
        "did_low": did_low,
        "did_high": did_high,
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part over whole; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=np.broadcast_to(whole, part.shape) > 0)
