"""IoU, ACE and energy of every unit of a layer for every class (Bau et al. 2018, "GAN Dissection")."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from gandid.interventions import REFERENCE, Runner
from gandid.ranking import rankings
from gandid.ranking.gradients import check_gradients
from gandid.ranking.journal import Journal
from gandid.ranking.overlap import TOP_QUANTILE, TOP_QUANTILES, Activations, Overlap
from gandid.ranking.passes import pictures
from gandid.ranking.rankings import Ablations, Replica, area
from gandid.segmenters import Segmenter, labelled, objects_of
from gandid.threads import can_be_copied, copied, in_threads

HALF = float(np.finfo(np.float16).max)  # activations above it are kept in single precision
PLACES = 6  # images per unit, on which it is most active (GAN Dissection, figure 2)


def relate(
    runner: Runner,
    segmenter: Segmenter,
    z: Tensor,
    on_progress: Callable[[float], None] = lambda latents: None,
    *,
    ranking: Literal["exact", "screened", "optimized"] = "exact",
    targets: Sequence[str] | None = None,
    count: int = 20,
    iou_threshold: Literal["quantile", "maximizing"] = "quantile",
    rows: int = 64,
    threads: int = 1,
    kept: Path | None = None,
) -> xr.Dataset:
    """Measure how every unit of the runner's layer relates to every class.

    Parameters
    ----------
    runner, segmenter
        The networks.
    z : Tensor of shape (n, latent_dim)
        Latents; take others for the effects, or the choice of units profits from their noise.
    on_progress : callable
        Called with the work done since the last call, in latents or parts of one.
    ranking : {"exact", "screened", "optimized"}
        How the ACE is measured, and what `top_units` goes by (docs/relation.md, "Rankings").
    targets : sequence of str, optional
        Classes for which units are to be chosen; all objects by default.
    count : int
        How many units are to be chosen for each.
    iou_threshold : {"quantile", "maximizing"}
        A unit counts as active where its activation is at least what the top 1 % of its activations reach; or, for each
        class, at least that of `TOP_QUANTILES` with which its IoU with the class is largest.
    rows : int
        Images that may be made at once.
    threads : int
        That each may make so many, where the networks can be copied.
    kept : Path, optional
        File from which a call that was cut short goes on.

    Returns
    -------
    xarray.Dataset
        See docs/relation.md.

    Raises
    ------
    UsageError
        If the ranking needs gradients that the segmenter does not give.
    """
    if ranking != "exact":
        check_gradients(runner, segmenter, z[:1])
    networks = replicas(runner, segmenter, threads)
    objects = objects_of(segmenter)
    asked = targets or ()  # of objects that nobody asked for nothing is said
    targets = objects if targets is None else list(targets)
    shares = (TOP_QUANTILE,) if iou_threshold == "quantile" else TOP_QUANTILES
    measured, thresholds, top, largest = _measure(networks, z, rows, shares)
    seen = dict(zip(segmenter.classes, measured["area"][1].any(axis=0), strict=True))
    unseen = [name for name in asked if not seen[name]]
    if unseen:
        warnings.warn(
            f"no image of the ranking shows {', '.join(unseen)}, and so nothing tells its units from others: raise "
            "--ranking-latents, name its units, or leave it out",
            stacklevel=2,
        )
    ablations = Ablations(networks, z, measured["area"][1], rows, Journal(kept), on_progress)
    if ranking == "screened":
        ablated, attributes = rankings.screened(ablations, objects, targets, count)
    elif ranking == "optimized":
        ablated, attributes = rankings.optimized(ablations, targets), {}
    else:
        ablated, attributes = rankings.exact(ablations), {}
    overlapping = _overlap(networks, z, rows, thresholds, top, largest)
    coords = {"unit": np.arange(runner.units), "latent": np.arange(len(z)), "object": list(segmenter.classes)}
    about = {"layer": runner.layer, "latents": len(z), "ranking": ranking, "iou_threshold": iou_threshold}
    return xr.Dataset(ablated | measured | overlapping, coords=coords, attrs=about | attributes)


def replicas(runner: Runner, segmenter: Segmenter, threads: int) -> list[Replica]:
    """The networks, and copies of them for other threads where they can be copied."""
    several = threads if can_be_copied([runner.generator, segmenter]) else 1
    copies = [(Runner(copied(runner.generator), runner.layer), copied(segmenter)) for _ in range(several - 1)]
    return [(runner, segmenter), *copies]


def top_units(relation: xr.Dataset, target: str, count: int) -> tuple[int, ...]:
    """The `count` best units of a class: of largest `alpha` where that was learned for it, else of largest ACE."""
    by = -np.nan_to_num(relation["ace"].sel(object=target).values, nan=-np.inf)
    order = np.argsort(by, kind="stable")
    if "alpha" in relation and np.isfinite(relation["alpha"].sel(object=target)).all():
        order = order[np.argsort(-relation["alpha"].sel(object=target).values[order], kind="stable")]
    return tuple(int(unit) for unit in order[:count])


def _measure(
    networks: Sequence[Replica], z: Tensor, rows: int, shares: Sequence[float]
) -> tuple[dict[str, Any], np.ndarray, np.ndarray, float]:
    """First pass: area and energy, thresholds (shares, units), each unit's most active latents (units, places), the largest activation."""
    runner, segmenter = networks[0]
    classes = len(segmenter.classes)
    areas, largest = np.empty((len(z), classes), np.float32), np.empty((len(z), runner.units), np.float32)
    energy = torch.zeros(runner.units, classes, dtype=torch.float64)
    activations = Activations(len(z))
    for numbers, _, labels, maps in _unedited(networks, z, rows):
        areas[numbers] = area(labels, classes).numpy()
        largest[numbers] = maps.amax(dim=(2, 3)).cpu().numpy()
        activations.add(maps)
        masks = F.one_hot(labels, classes).permute(0, 3, 1, 2).float()
        with torch.autocast(z.device.type, enabled=False):  # which would round what is summed
            share = F.interpolate(masks, size=maps.shape[2:], mode="area")
            energy += torch.einsum("nuhw,nchw->uc", maps.square(), share).double().cpu()
    energy /= energy.sum(dim=1, keepdim=True).clamp_min(1e-30)
    variables = {"area": (("latent", "object"), areas), "energy": (("unit", "object"), energy.numpy())}
    # Stable: among equal latents those that come first stay.
    top = np.argsort(-largest, axis=0, kind="stable")[:PLACES].T
    return variables, activations.above(shares), top, float(largest.max())


def _overlap(
    networks: Sequence[Replica], z: Tensor, rows: int, thresholds: np.ndarray, top: np.ndarray, largest: float
) -> dict[str, Any]:
    """Second pass: the IoU with these thresholds, and each unit's activations and the images of its `top` latents."""
    runner, segmenter = networks[0]
    overlap, shown = Overlap(thresholds, len(segmenter.classes), z.device), np.unique(top)
    top_map = np.empty((*top.shape, *runner.map_size), np.float16 if largest <= HALF else np.float32)
    image = np.empty((len(shown), *runner.image_size, 3), np.uint8)
    for numbers, images, labels, maps in _unedited(networks, z, rows):
        overlap.add(maps, labels)
        unit, place = np.nonzero((top >= numbers.start) & (top < numbers.stop))
        latent = torch.from_numpy(top[unit, place] - numbers.start)
        top_map[unit, place] = maps[latent, torch.from_numpy(unit)].cpu().numpy()
        here = np.flatnonzero((shown >= numbers.start) & (shown < numbers.stop))
        image[here] = pictures(images[torch.from_numpy(shown[here] - numbers.start)])
    iou, threshold = overlap.best()
    return {
        "shown": shown,
        "iou": (("unit", "object"), iou),
        "threshold": ("unit", threshold[:, 0]) if len(thresholds) == 1 else (("unit", "object"), threshold),
        "top_latent": (("unit", "place"), top),
        "top_map": (("unit", "place", "v", "u"), top_map),
        "image": (("shown", "y", "x", "channel"), image),
    }


def _unedited(networks: Sequence[Replica], z: Tensor, rows: int) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """(which latents, images, labels, activations) of batches of unedited images."""

    def make(replica: Replica, start: int) -> tuple[slice, Tensor, Tensor, Tensor]:
        runner, segmenter = replica
        (images,), readings = runner.read(z[start : start + rows], [REFERENCE])
        return slice(start, start + len(images)), images, labelled(segmenter, images), readings.layer.float()

    return in_threads(make, range(0, len(z), rows), networks)
