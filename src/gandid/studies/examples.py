"""The images that a reader sees: for each target, the latents on which normalization changed most."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from gandid.interventions import REFERENCE, Arm, Runner
from gandid.relation.passes import pictures
from gandid.segmenters import Segmenter
from gandid.studies.design import Design
from gandid.studies.latents import latents

EXAMPLES = 6
AMONG = 1024  # latents among which they are looked for: those that the panel has first


def choose(panel: xr.Dataset, target: str, count: int = EXAMPLES) -> np.ndarray:
    """Latents (count,) on whose target's pixels live and held disagree most, under the study's first control; -1 pads.

    The later controls are left out of the choice: `frozen` first of all makes artefacts, which would fill the strip.
    """
    arms = panel["arm"].where(panel["control"] == panel["control"].values[2], drop=True).values
    inside = panel["inside"].sel(target=target)
    moved = abs(inside.sel(arm=arms) - inside.sel(arm="live")).sum(("arm", "object")).values
    shown = inside.sel(arm="reference", object=target).values > 0
    order = [i for i in np.argsort(-moved, kind="stable") if shown[i]][:count]
    chosen = np.full(count, -1)
    chosen[: len(order)] = panel["latent"].values[order]
    return chosen


def collect(
    runner: Runner, segmenter: Segmenter, design: Design, panel: xr.Dataset, seed: int
) -> dict[str, np.ndarray]:
    """Images, labels and gain of the chosen latents in every arm (docs/panel.md, "Examples")."""
    among = panel[["inside"]].isel(latent=slice(AMONG)).load()
    chosen = np.stack([choose(among, target) for target in design.edits])
    targets, arms = len(design.edits), design.arms
    generator: Any = runner.generator
    device = runner.device
    images = np.zeros((targets, EXAMPLES, len(arms), *runner.image_size, 3), np.uint8)
    labels = np.zeros(images.shape[:-1], np.uint8)
    gain = np.full((targets, EXAMPLES, *runner.map_size), np.nan, np.float32)
    for t, edit in enumerate(design.edits.values()):
        numbers = chosen[t][chosen[t] >= 0]
        if not len(numbers):
            continue
        held = [Arm(edit, h.sites(runner.downstream)) for h in design.held]
        z = latents(seed, numbers, generator.latent_dim).to(device)
        donors = latents(seed, numbers, generator.latent_dim, "donors").to(device) if edit.values is None else None
        made, readings = runner.read(z, [REFERENCE, Arm(edit), *held], donors=donors)
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
