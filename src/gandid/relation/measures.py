"""IoU, ACE and energy of every unit of a layer for every class (Bau et al. 2018, "GAN Dissection")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from gandid.interventions import REFERENCE, Runner
from gandid.relation import rankings
from gandid.relation.ablations import Kept, area
from gandid.relation.activating import MostActivating
from gandid.relation.iou import TOP_QUANTILE, TOP_QUANTILES, Overlap, Quantiles
from gandid.relation.soft import check_gradients
from gandid.segmenters import Segmenter, objects_of

Ranking = Literal["exact", "screened", "optimized"]
Threshold = Literal["quantile", "maximizing"]

AT_ONCE = 64  # images made at once on a CPU: of more of them the maps no longer stay in the cache


def relate(
    runner: Runner,
    segmenter: Segmenter,
    z: Tensor,
    on_progress: rankings.Advance = lambda latents: None,
    *,
    ranking: Ranking = "exact",
    targets: Sequence[str] | None = None,
    count: int = 20,
    iou_threshold: Threshold = "quantile",
    rows: int = 128,
    kept: Path | None = None,
) -> xr.Dataset:
    """Measure how every unit of the runner's layer relates to every class.

    Parameters
    ----------
    runner : Runner
    segmenter : Segmenter
    z : Tensor of shape (n, latent_dim)
        Latents; take others for the effects, or the choice of units profits from their noise.
    on_progress : callable
        Told how much has been done since the last call, in latents; of other rankings than `exact`, parts of them.
    ranking : {"exact", "screened", "optimized"}
        How the ACE is measured, and what `top_units` goes by. `exact`: every unit is ablated alone on every latent. `screened`:
        only as far as it takes to settle the `count` units of largest ACE on each target (`gandid.relation.screening`).
        `optimized`: as `exact`, and `alpha` is learned besides, for each target (`gandid.relation.optimized`).
    targets : sequence of str, optional
        For which classes the units are to be chosen; by default, all objects.
    count : int
        How many units.
    iou_threshold : {"quantile", "maximizing"}
        A unit counts as active where its activation is at least what its top 1 % of activations reach; or, for each class, at
        least that of `TOP_QUANTILES` with which its IoU with the class is largest.
    rows : int
        Images that may be made at once.
    kept : Path, optional
        File that keeps the long parts as they are done; what it holds already, from a call that was cut short, is not done again.

    Returns
    -------
    xarray.Dataset
        See docs/relation.md.

    Raises
    ------
    UsageError
        If the ranking needs gradients that the segmenter does not give.
    """
    classes, n = segmenter.classes, len(z)
    objects = objects_of(segmenter)
    targets = objects if targets is None else list(targets)
    if ranking != "exact":
        check_gradients(runner, segmenter, z[:1])
    rows = min(rows, AT_ONCE) if z.device.type == "cpu" else rows

    before = np.empty((n, len(classes)), np.float32)
    energy = torch.zeros(runner.units, len(classes), dtype=torch.float64)
    quantiles, top = Quantiles(runner.units), MostActivating(runner.units, runner.map_size)
    for start, _, seen, maps in _unedited(runner, segmenter, z, rows):
        before[start : start + len(seen)] = area(seen, len(classes)).numpy()
        quantiles.add(maps)
        top.add(start, maps)
        share = F.interpolate(_masks(seen, len(classes)), size=maps.shape[2:], mode="area")
        energy += torch.einsum("nuhw,nchw->uc", maps.square(), share).double().cpu()

    setting = rankings.Setting(runner, segmenter, z, before, rows, Kept(kept), on_progress)
    if ranking == "screened":
        ablated, about = rankings.screened(setting, objects, targets, count)
    elif ranking == "optimized":
        ablated, about = rankings.optimized(setting, targets)
    else:
        ablated, about = rankings.exact(setting)

    overlap = Overlap(quantiles.above((TOP_QUANTILE,) if iou_threshold == "quantile" else TOP_QUANTILES), len(classes))
    shown = np.unique(top.latents)
    pictures = np.empty((len(shown), *runner.image_size, 3), np.uint8)
    for start, images, seen, maps in _unedited(runner, segmenter, z, rows):
        overlap.add(maps, seen)
        here = np.flatnonzero((shown >= start) & (shown < start + len(seen)))
        pictures[here] = _bytes(images[torch.from_numpy(shown[here] - start).to(images.device)])
    iou, threshold = overlap.best()
    pair = ("unit", "object")
    return xr.Dataset(
        ablated
        | {
            "iou": (pair, iou),
            "energy": (pair, (energy / energy.sum(dim=1, keepdim=True).clamp_min(1e-30)).numpy()),
            "threshold": ("unit", threshold[:, 0]) if iou_threshold == "quantile" else (pair, threshold),
            "area": (("latent", "object"), before),
            "top_latent": (("unit", "place"), top.latents),
            "top_map": (("unit", "place", "v", "u"), top.maps),
            "image": (("shown", "y", "x", "channel"), pictures),
        },
        coords={"unit": np.arange(runner.units), "object": list(classes), "latent": np.arange(n), "shown": shown},
        attrs={"layer": runner.layer, "latents": n, "ranking": ranking, "iou_threshold": iou_threshold} | about,
    )


def top_units(relation: xr.Dataset, target: str, count: int) -> tuple[int, ...]:
    """The `count` units of a class, best first: of largest `alpha` where that was learned for it, or else of largest ACE."""
    by = -np.nan_to_num(relation["ace"].sel(object=target).values, nan=-np.inf)
    order = np.argsort(by, kind="stable")
    if "alpha" in relation and np.isfinite(relation["alpha"].sel(object=target)).all():
        order = order[np.argsort(-relation["alpha"].sel(object=target).values[order], kind="stable")]
    return tuple(int(unit) for unit in order[:count])


def _unedited(
    runner: Runner, segmenter: Segmenter, z: Tensor, rows: int
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """(number of the first latent, images, labels, activations) of batches of unedited images."""
    for start in range(0, len(z), rows):
        images, readings = runner.read(z[start : start + rows], [REFERENCE])
        yield start, images[0], segmenter(images[0]), readings.layer.float()


def _masks(labels: Tensor, classes: int) -> Tensor:
    """Labels (n, H, W) as one map per class (n, classes, H, W), 0 or 1."""
    return F.one_hot(labels, classes).permute(0, 3, 1, 2).float()


def _bytes(images: Tensor) -> np.ndarray:
    """Images (n, 3, H, W) in [-1, 1] as pictures (n, H, W, 3) uint8."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()
