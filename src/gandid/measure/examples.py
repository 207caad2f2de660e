"""The images that a reader sees: for each target, the latents on which normalization changed most."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from gandid.interventions import Runner
from gandid.latents import latents
from gandid.measure.experiment import Experiment
from gandid.panel.table import REFERENCE, STRENGTH, graded
from gandid.ranking.passes import batches, passes, pictures
from gandid.segmenters import Segmenter

EXAMPLES = 6
AMONG = 1024  # latents among which they are looked for: those that the panel has first


def choose(inside: xr.DataArray, latents: np.ndarray, target: str, arms: list[str]) -> np.ndarray:
    """Latents (EXAMPLES,) on whose target's pixels live and some held `arms` disagree most, the most first; -1 pads.

    `inside` (latent, target, arm, object) are the counts of the latents of these numbers.
    """
    inside = inside.sel(target=target)
    moved = abs(inside.sel(arm=arms) - inside.sel(arm="live")).sum(("arm", "object")).values
    shown = inside.sel(arm="reference").sum("object").values > 0
    order = [i for i in np.argsort(-moved, kind="stable") if shown[i]][:EXAMPLES]
    chosen = np.full(EXAMPLES, -1)
    chosen[: len(order)] = latents[order]
    return chosen


def collect(
    runners: Mapping[str, Runner], segmenter: Segmenter, experiment: Experiment, panel: xr.Dataset, seed: int, rows: int
) -> dict[str, np.ndarray]:
    """Images, labels and gain of the chosen latents in every arm of the study (docs/panel.md, "Examples"), `rows` images at once.

    The later controls are left out of the choice: `frozen` first of all makes artefacts, which would fill the strip.
    """
    own, runner, targets = experiment.study.arms, runners["own"], experiment.targets
    partly = [arm for block in experiment.blocks if block.name == STRENGTH for arm in block.arms]
    study = [*own, *(arm for arm in partly if arm._replace(strength=1.0) == graded(experiment.study))]
    names = [arm.name(experiment.dose) for arm in study]
    first = own[2]
    compared = [
        arm
        for arm in own[2:]
        if arm.edit and (arm.control, arm.network == "own") == (first.control, first.network == "own")
    ]
    inside = panel["inside"].isel(segmenter=0, latent=slice(AMONG)).sel(arm=names).load()
    numbers = panel["latent"].values[:AMONG]
    chosen = np.stack(
        [choose(inside, numbers, target, [arm.name(experiment.dose) for arm in compared]) for target in targets]
    )
    images = np.zeros((len(targets), EXAMPLES, len(names), *runner.image_size, 3), np.uint8)
    labels = np.zeros(images.shape[:-1], np.uint8)
    gain = np.full((len(targets), EXAMPLES, *runner.map_size), np.nan, np.float32)
    for t, target in enumerate(targets):
        shown = chosen[t][chosen[t] >= 0]
        for network, its in runners.items() if len(shown) else ():
            reference = REFERENCE._replace(network=network)
            places = [a for a, arm in enumerate(study) if arm.network == network]
            places.sort(key=lambda a, reference=reference: study[a] != reference)  # type: ignore[misc]
            z, donors = (
                latents(seed, shown, its.generator.latent_dim, stream).to(its.device)
                for stream in ("effects", "donors")
            )
            arms = [experiment.arm(target if study[a].edit else None, study[a]) for a in places]
            for batch in batches(len(shown), rows):
                others = donors[batch] if experiment.resamples else None
                for which, made, seen in passes(its, segmenter, z[batch], arms, rows, others):
                    images[t, batch][:, places[which]] = pictures(made).swapaxes(0, 1)
                    labels[t, batch][:, places[which]] = seen.transpose(0, 1).cpu().numpy()
                if network == "own":
                    _, readings = its.read(z[batch], arms[:2], donors=others)
                    gain[t, batch] = readings.gain(runner.downstream[0], 1).cpu().numpy()
    return {
        "targets": np.array(targets),
        "arms": np.array(names),
        "classes": np.array(segmenter.classes),
        "latents": chosen,
        "images": images,
        "labels": labels,
        "gain": gain,
    }
