"""IoU, ACE and energy of every unit of a layer for every class (Bau et al. 2018, "GAN Dissection")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from gandid.interventions import REFERENCE, Runner
from gandid.relation.ablations import Kept, area, drops
from gandid.relation.activating import MostActivating
from gandid.relation.iou import TOP_QUANTILE, TOP_QUANTILES, Overlap, Quantiles
from gandid.segmenters import Segmenter

Threshold = Literal["quantile", "maximizing"]


def relate(
    runner: Runner,
    segmenter: Segmenter,
    z: Tensor,
    on_progress: Callable[[int], None] = lambda latents: None,
    *,
    rows: int = 128,
    kept: Path | None = None,
    iou_threshold: Threshold = "quantile",
) -> xr.Dataset:
    """Measure how every unit of the runner's layer relates to every class.

    Parameters
    ----------
    runner : Runner
    segmenter : Segmenter
    z : Tensor of shape (n, latent_dim)
        Latents; take others for the effects, or the choice of units profits from their noise.
    on_progress : callable
        Told how many latents have been done since the last call.
    rows : int
        Images that may be made at once.
    kept : Path, optional
        File that keeps the single-unit ablations, which are the long part, as they are done; what it holds already, from a run
        that was cut short, is not done again.
    iou_threshold : {"quantile", "maximizing"}
        A unit counts as active where its activation is at least what its top 1 % of activations reach; or, for each class, at
        least that of `TOP_QUANTILES` with which its IoU with the class is largest.

    Returns
    -------
    xarray.Dataset
        See docs/relation.md.
    """
    classes, n = segmenter.classes, len(z)
    before = np.empty((n, len(classes)))
    drop = np.empty((n, runner.units, len(classes)), np.float32)
    energy = torch.zeros(runner.units, len(classes), dtype=torch.float64)
    quantiles, top = Quantiles(runner.units), MostActivating(runner.units, runner.map_size)
    store = Kept(kept)
    batch = max(1, rows // (runner.units + 1))
    for start, _, seen, maps in _unedited(runner, segmenter, z, rows):
        before[start : start + len(seen)] = area(seen, len(classes)).numpy()
        quantiles.add(maps)
        top.add(start, maps)
        share = F.interpolate(_masks(seen, len(classes)), size=maps.shape[2:], mode="area")
        energy += torch.einsum("nuhw,nchw->uc", maps.square(), share).double().cpu()
    for start in range(0, n, batch):
        some, stop = z[start : start + batch], min(start + batch, n)
        ablate_each = partial(drops, runner, segmenter, some, before[start:stop], range(runner.units), rows)
        drop[start:stop] = store.rows(len(some), drop.shape[1:], ablate_each)
        on_progress(len(some))
    overlap = Overlap(quantiles.above((TOP_QUANTILE,) if iou_threshold == "quantile" else TOP_QUANTILES), len(classes))
    shown = np.unique(top.latents)
    pictures = np.empty((len(shown), *runner.image_size, 3), np.uint8)
    for start, images, seen, maps in _unedited(runner, segmenter, z, rows):
        overlap.add(maps, seen)
        here = np.flatnonzero((shown >= start) & (shown < start + len(seen)))
        pictures[here] = _bytes(images[torch.from_numpy(shown[here] - start).to(images.device)])
    iou, threshold = overlap.best()
    measures = {
        "ace": drop.mean(axis=0, dtype=np.float64),
        "ace_se": drop.std(axis=0, ddof=1, dtype=np.float64) / np.sqrt(n) if n > 1 else np.full(drop.shape[1:], np.nan),
        "iou": iou,
        "energy": (energy / energy.sum(dim=1, keepdim=True).clamp_min(1e-30)).numpy(),
    }
    return xr.Dataset(
        {name: (("unit", "object"), values) for name, values in measures.items()}
        | {
            "exact": ("unit", np.full(runner.units, True)),
            "threshold": ("unit", threshold[:, 0]) if iou_threshold == "quantile" else (("unit", "object"), threshold),
            "drop": (("latent", "unit", "object"), drop),
            "area": (("latent", "object"), before.astype(np.float32)),
            "top_latent": (("unit", "place"), top.latents),
            "top_map": (("unit", "place", "v", "u"), top.maps),
            "image": (("shown", "y", "x", "channel"), pictures),
        },
        coords={
            "unit": np.arange(runner.units),
            "object": list(classes),
            "latent": np.arange(n),
            "shown": shown,
        },
        attrs={"layer": runner.layer, "latents": n, "ranking": "exact", "iou_threshold": iou_threshold},
    )


def top_units(relation: xr.Dataset, target: str, count: int) -> tuple[int, ...]:
    """The `count` units of largest ACE on a class, best first."""
    order = np.argsort(-relation["ace"].sel(object=target).values, kind="stable")
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
