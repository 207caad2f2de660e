"""IoU, ACE and energy of every unit of a layer for every class (Bau et al. 2018, "GAN Dissection")."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from gandid import outcomes
from gandid.interventions import REFERENCE, Arm, Runner, ablate
from gandid.segmenters import Segmenter

TOP_QUANTILE = 0.01  # share of a unit's activations above the threshold of its IoU, as in GAN Dissection


def relate(
    runner: Runner,
    segmenter: Segmenter,
    z: Tensor,
    on_progress: Callable[[int], None] = lambda latents: None,
    *,
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
        Told how many latents have been done since the last call.
    rows : int
        Images that may be made at once.
    kept : Path, optional
        File that keeps the single-unit ablations, which are the long part, as they are done; what it holds already, from a run
        that was cut short, is not done again.

    Returns
    -------
    xarray.Dataset
        Over `unit` and `object`:

        - `ace`, the average causal effect of ablating the unit alone, `E[area(live)] - E[area(ablated)]`, a share of the
          image (Bau et al. 2018, eq. 3, for one unit); `ace_se`, its standard error over latents;
        - `iou`, in [0, 1], of the unit's top 1 % of activations, upsampled bilinearly, with the class's mask;
        - `energy`, in [0, 1], the share of the unit's squared activation that lies on the class's pixels.
    """
    units, classes, n = runner.units, segmenter.classes, len(z)
    drop = np.empty((n, units, len(classes)))
    energy = torch.zeros(units, len(classes), dtype=torch.float64)
    activations, labels = [], []
    batch = max(1, rows // (units + 1))
    done = _read_kept(kept, drop)
    for start in range(0, n, batch):
        some = z[start : start + batch]
        seen = segmenter(runner.run(some, [REFERENCE])[0])
        if start + len(some) > done:
            drop[start : start + batch] = _ablate_each(runner, segmenter, some, seen, rows)
            if kept is not None:
                with kept.open("ab") as file:
                    drop[max(start, done) : start + batch].tofile(file)
        maps = runner.activations(some).float()
        masks = F.one_hot(seen, len(classes)).permute(0, 3, 1, 2).float()
        share = F.interpolate(masks, size=maps.shape[2:], mode="area")
        energy += torch.einsum("nuhw,nchw->uc", maps.square(), share).double().cpu()
        activations.append(maps.cpu())
        labels.append(seen.cpu())
        on_progress(len(some))
    measures = {
        "ace": drop.mean(axis=0),
        "ace_se": drop.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(drop.shape[1:], np.nan),
        "iou": _iou(torch.cat(activations), torch.cat(labels), len(classes)),
        "energy": (energy / energy.sum(dim=1, keepdim=True).clamp_min(1e-30)).numpy(),
    }
    return xr.Dataset(
        {name: (("unit", "object"), values) for name, values in measures.items()},
        coords={"unit": np.arange(units), "object": list(classes)},
        attrs={"layer": runner.layer, "latents": n},
    )


def top_units(relation: xr.Dataset, target: str, count: int) -> tuple[int, ...]:
    """The `count` units of largest ACE on a class, best first."""
    order = np.argsort(-relation["ace"].sel(object=target).values, kind="stable")
    return tuple(int(unit) for unit in order[:count])


def _ablate_each(runner: Runner, segmenter: Segmenter, z: Tensor, seen: Tensor, rows: int) -> np.ndarray:
    """Loss of area (n, units, classes) to each unit's ablation; `seen` (n, H, W) labels the unedited images."""
    classes, size = len(segmenter.classes), seen[0].numel()
    before = outcomes.area(outcomes.pixels(seen.cpu().numpy(), classes), size)
    group = max(1, rows // len(z) - 1)
    after = []
    for start in range(0, runner.units, group):
        arms = [Arm(ablate((unit,))) for unit in range(start, min(start + group, runner.units))]
        labels = segmenter(runner.run(z, [REFERENCE, *arms])[1:].flatten(0, 1)).unflatten(0, (len(arms), len(z)))
        after.append(outcomes.area(outcomes.pixels(labels.cpu().numpy(), classes), size))
    return (before - np.concatenate(after)).transpose(1, 0, 2)


def _read_kept(kept: Path | None, drop: np.ndarray) -> int:
    """Fill `drop` with the whole latents that a file holds, cut off a part of one, and return how many they are."""
    if kept is None or not kept.exists():
        return 0
    size = drop[0].nbytes
    done = min(kept.stat().st_size // size, len(drop))
    with kept.open("r+b") as file:
        file.truncate(done * size)
        drop[:done] = np.fromfile(file, drop.dtype, done * drop[0].size).reshape(done, *drop.shape[1:])
    return done


def _iou(activations: Tensor, labels: Tensor, classes: int) -> np.ndarray:
    """Intersection over union (units, classes) of thresholded activations (n, units, h, w) with labels (n, H, W)."""
    flat = activations.transpose(0, 1).flatten(1)
    above = max(1, round(TOP_QUANTILE * flat.shape[1]))
    threshold = flat.topk(above, dim=1).values[:, -1]
    both = torch.zeros(flat.shape[0], classes, dtype=torch.float64)
    active, shown = torch.zeros(flat.shape[0], 1, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
    for maps, seen in zip(activations.split(16), labels.split(16), strict=True):
        large = F.interpolate(maps, size=seen.shape[1:], mode="bilinear", align_corners=False)
        hot = (large >= threshold[:, None, None]).transpose(0, 1).flatten(1).float()
        masks = F.one_hot(seen, classes).flatten(0, 2).float()
        both += (hot @ masks).double()
        active += hot.sum(dim=1, keepdim=True).double()
        shown += masks.sum(dim=0).double()
    return (both / (active + shown - both).clamp_min(1)).numpy()
