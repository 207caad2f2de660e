"""The images that a reader sees: for each target, the latents on which normalization changed most."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from gandid.interventions import REFERENCE, Arm, Edit, Readings, Runner
from gandid.relation.passes import pictures
from gandid.segmenters import Segmenter
from gandid.studies.design import Design, Held
from gandid.studies.latents import latents

EXAMPLES = 6
AMONG = 1024  # latents among which they are looked for: those that the panel has first


def choose(panel: xr.Dataset, target: str, count: int = EXAMPLES) -> np.ndarray:
    """Latents (count,) on whose target's pixels live and held disagree most, under the study's first control; -1 pads.

    The later controls are left out of the choice: `frozen` first of all makes artefacts, which would fill the strip.
    """
    arms = panel["arm"].values[panel["edit"].values & (panel["control"].values == panel["control"].values[2])]
    inside = panel["inside"].sel(target=target)
    moved = abs(inside.sel(arm=arms) - inside.sel(arm="live")).sum(("arm", "object")).values
    shown = inside.sel(arm="reference", object=target).values > 0
    order = [i for i in np.argsort(-moved, kind="stable") if shown[i]][:count]
    chosen = np.full(count, -1)
    chosen[: len(order)] = panel["latent"].values[order]
    return chosen


def collect(
    runner: Runner,
    segmenter: Segmenter,
    design: Design,
    panel: xr.Dataset,
    seed: int,
    twins: Mapping[Held, Runner] = MappingProxyType({}),
) -> dict[str, np.ndarray]:
    """Images, labels and gain of the chosen latents in every arm (docs/panel.md, "Examples")."""
    among = panel[["inside"]].isel(latent=slice(AMONG)).load()
    chosen = np.stack([choose(among, target) for target in design.edits])
    targets, arms = len(design.edits), design.arms
    downstream, own = runner.downstream, [held for held in design.held if held.unedited]

    def run(of: Runner, numbers: np.ndarray, edit: Edit, arms: list[Arm]) -> tuple[Tensor, Readings]:
        generator: Any = of.generator
        z = latents(seed, numbers, generator.latent_dim).to(of.device)
        donors = latents(seed, numbers, generator.latent_dim, "donors").to(of.device) if edit.values is None else None
        return of.read(z, [REFERENCE, Arm(edit), *arms], donors=donors)

    images = np.zeros((targets, EXAMPLES, len(arms), *runner.image_size, 3), np.uint8)
    labels = np.zeros(images.shape[:-1], np.uint8)
    gain = np.full((targets, EXAMPLES, *runner.map_size), np.nan, np.float32)
    for t, (target, edit) in enumerate(design.edits.items()):
        numbers = chosen[t][chosen[t] >= 0]
        if not len(numbers):
            continue
        held = [Arm(edit, h.sites(downstream)) for h in design.held]
        made, readings = run(runner, numbers, edit, [*held, *(Arm(None, h.sites(downstream)) for h in own)])
        if twins:
            count = 2 + len(held)
            theirs = [run(of, numbers, design.twins[twin][target], [])[0] for twin, of in twins.items()]
            ablated, unedited = ([images[i] for images in theirs] for i in (1, 0))
            made = torch.stack([*made[:count], *ablated, *made[count:], *unedited])
        seen = segmenter(made.flatten(0, 1)).unflatten(0, made.shape[:2]).transpose(0, 1)
        images[t, : len(numbers)] = pictures(made).swapaxes(0, 1)
        labels[t, : len(numbers)] = seen.cpu().numpy()
        gain[t, : len(numbers)] = readings.gain(runner.downstream[0], 1).cpu().numpy()
    return {
        "targets": np.array(list(design.edits)),
        "arms": np.array(arms),
        "classes": np.array(segmenter.classes),
        "latents": chosen,
        "images": images,
        "labels": labels,
        "gain": gain,
    }
