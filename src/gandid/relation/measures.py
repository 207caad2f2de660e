"""IoU, ACE and energy of every unit of a layer for every class (Bau et al. 2018, "GAN Dissection")."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor

from gandid import outcomes
from gandid.interventions import REFERENCE, Arm, Runner, ablate
from gandid.segmenters import Segmenter

TOP_QUANTILE = 0.01  # share of a unit's activations above the threshold of its IoU, as in GAN Dissection
_ROWS = 128  # images made at once: more of them no longer fit the cache


def relate(
    runner: Runner, segmenter: Segmenter, z: Tensor, on_progress: Callable[[int], None] = lambda latents: None
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
    batch = max(1, _ROWS // (units + 1))
    for start in range(0, n, batch):
        some = z[start : start + batch]
        seen, areas = _ablate_each(runner, segmenter, some)
        drop[start : start + batch] = areas
        maps = runner.activations(some)
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


def _ablate_each(runner: Runner, segmenter: Segmenter, z: Tensor) -> tuple[Tensor, np.ndarray]:
    """Labels (n, H, W) of the unedited images, and the loss of area (n, units, classes) to each unit's ablation."""
    arms: Sequence[Arm] = [REFERENCE] + [Arm(ablate((unit,))) for unit in range(runner.units)]
    labels = segmenter(runner.run(z, arms).flatten(0, 1)).unflatten(0, (len(arms), len(z)))
    counts = outcomes.pixels(labels.cpu().numpy(), len(segmenter.classes))
    areas = outcomes.area(counts, labels[0, 0].numel())
    return labels[0], (areas[:1] - areas[1:]).transpose(1, 0, 2)


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
