"""What lies around an experiment on one image: the same edit on other images, at other doses, and at other layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from gandid.app.models import Model
from gandid.app.state import STRIP, State
from gandid.app.views import MOST, counted, edit, named, settle
from gandid.errors import GandidError
from gandid.interventions import REFERENCE, Arm, hold
from gandid.ranking.passes import pictures
from gandid.segmenters import labelled

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Effect:
    """What the edit in hand does to its object in one image."""

    turn: dict[str, object]
    """The fields of a state that lead to it."""
    live: float = float("nan")
    """Share that is removed, or of an insertion's region that shows the object; NaN where there is none."""
    held: float = float("nan")
    image: np.ndarray | None = None
    """The unedited one, uint8 (H, W, 3)."""
    problem: str = ""
    """Why this cannot be chosen."""


def strip(model: Model, state: State) -> Iterator[list[Effect]]:
    """The `STRIP` images among which that of a state is; after each pass those that are known by then."""
    first, found = state.number // STRIP * STRIP, list[Effect]()
    every, step = range(first, min(first + STRIP, MOST + 1)), max(1, model.rows // 6)  # half of what fits at once
    for start in range(0, len(every), step):
        numbers = every[start : start + step]
        shares, images = _measured(model, state, numbers, (state.alpha,))
        for number, (live, held), image in zip(numbers, shares[0], images, strict=True):
            found.append(Effect({"number": number}, live, held, image))
        yield found


def doses(model: Model, state: State) -> Iterator[list[Effect]]:
    """One image at each of `DOSES`, as many in a pass as fit; after each pass those that are known by then."""
    found, step = list[Effect](), max(1, (model.rows - 1) // 2)
    for start in range(0, len(DOSES), step):
        some = DOSES[start : start + step]
        shares, _ = _measured(model, state, [state.number], some)
        found += [Effect({"alpha": dose}, *share[0]) for dose, share in zip(some, shares, strict=True)]
        yield found


def layers(model: Model, state: State) -> Iterator[list[Effect]]:
    """One image at each layer whose units are ranked by now, with as many of them; after each layer, all of them."""
    found = [Effect({"layer": layer}) for layer in model.layers]
    for place, layer in enumerate(model.layers):
        ranked = model.rankings.known(layer)
        if ranked.relation is None and layer != state.layer:
            continue
        try:
            with model.hand:
                there = state if layer == state.layer else named(settle(state.moved(layer=layer), model), ranked)
            shares, _ = _measured(model, there, [state.number], (state.alpha,))
            found[place] = Effect({"layer": layer}, *shares[0][0])
        except GandidError as error:
            found[place] = Effect({"layer": layer}, problem=str(error))
        yield found


@torch.inference_mode()
def _measured(
    model: Model, state: State, numbers: Sequence[int], doses: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Of a settled state whose units are named, (dose, image, live and held) shares as in `Effect`; and the unedited images."""
    model.rest()
    with model.hand:
        change = edit(state, model)
    runner = model.runner(state.layer, aside=True)
    held = hold(state.control, state.hold, runner.downstream)
    changes = [replace(change, alpha=dose) for dose in doses]
    arms = [REFERENCE, *(arm for each in changes for arm in (Arm(each), Arm(each, held)))]
    images = runner.run(model.latents(state.seed, numbers), arms)
    labels = labelled(model.segmenter, images.flatten(0, 1)).unflatten(0, images.shape[:2]).cpu().numpy()
    places = counted(state, model, labels[0])
    there = (labels[1:] == model.segmenter.classes.index(state.target)) & places
    with np.errstate(invalid="ignore"):
        shares = there.sum(axis=(2, 3)) / places.sum(axis=(1, 2))
    shares = (1 - shares if state.mode == "ablate" else shares).reshape(len(doses), 2, len(numbers)).swapaxes(1, 2)
    return shares, pictures(images[0])
