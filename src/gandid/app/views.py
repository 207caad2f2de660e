"""One experiment on one image: from a state of the page to what it shows. Gradio is not needed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from gandid.app.models import Model, Ranked
from gandid.app.state import MOST_UNITS, State, decode_region, encode_region
from gandid.errors import UsageError
from gandid.interventions import REFERENCE, Arm, Edit, Runner, ablate, hold, insert
from gandid.outcomes.counts import pixels
from gandid.ranking import top_units
from gandid.ranking.passes import pictures
from gandid.segmenters import labelled

TRIED = 6  # objects among which the opening one is looked for
SIZABLE = 0.03  # share of the image that its object has at least
SOUGHT = 64  # images among which the next one with an object is looked for
MOST = 2**31 - 1  # largest number of an image


@dataclass(frozen=True)
class View:
    """What one state gives; the arms are original, edited live and edited held (one arm, while nothing is ranked yet)."""

    state: State
    images: np.ndarray
    """uint8 (arms, H, W, 3)."""
    labels: np.ndarray
    """Class of each pixel, int64 (arms, H, W)."""
    activations: np.ndarray
    """The layer's unedited output, float32 (C, h, w)."""
    gain: np.ndarray
    """How much more the first site amplifies the edited image, float32 (h, w); empty while nothing is ranked."""
    counted: tuple[np.ndarray, ...]
    """Of each edit the pixels on which its outcome is counted, bool (H, W): the object's original ones, or an insertion's region."""

    @property
    def edited(self) -> bool:
        """Whether there are arms to compare."""
        return len(self.images) > 1

    @property
    def measured(self) -> np.ndarray:
        """Those of the edit in hand."""
        return self.counted[0]

    def shares(self, classes: int, edit: int = 0) -> np.ndarray:
        """Per arm, the share of an edit's pixels that carries each class, (arms, C); NaN where there are none."""
        mask = self.counted[edit]
        counts = pixels(torch.tensor(self.labels), classes, torch.tensor(mask)).numpy()
        return counts / mask.sum() if mask.any() else np.full(counts.shape, np.nan)


def settle(state: State, model: Model) -> State:
    """Make a state one that this model has: unknown layers, objects and units are replaced or left out."""
    layer = state.layer if state.layer in model.layers else model.default_layer
    target = state.target if state.target in model.objects else model.objects[0]
    state, known = replace(state, layer=layer, target=target), set(model.objects) - {target}
    others = {other.target: other for other in state.edits()[1:] if other.target in known}
    hand, *beside = (_settled(each, model.runner(layer)) for each in (state, *others.values()))
    return hand.beside(beside)


def _settled(state: State, runner: Runner) -> State:
    """One edit of those of a state."""
    units = tuple(unit for unit in state.units or () if unit < runner.units) or None
    count = len(units) if units else min(max(state.count, 1), MOST_UNITS, runner.units)
    region, size = state.region, _size(runner.map_size)
    if region:
        region = encode_region(decode_region(region, size))
    elif state.mode == "insert":
        region = encode_region(_middle(size))
    return replace(state, units=units, count=count, region=region)


def chosen(state: State, ranked: Ranked) -> tuple[int, ...] | None:
    """The units of the edit in hand; None while they are not ranked yet."""
    if state.units is not None:
        return state.units
    return None if ranked.relation is None else top_units(ranked.relation, state.target, state.count)


def named(state: State, ranked: Ranked) -> State:
    """The state with the units of its edits named, as far as they are ranked."""
    hand, *others = (replace(each, units=chosen(each, ranked)) for each in state.edits())
    return hand.beside(others)


def edit(state: State, model: Model) -> Edit:
    """What the edits of a settled state, whose units are named, do together; take the model's lock `hand`.

    A unit that is inserted for one object is not ablated for another, nor inserted for a later one: so the edits have no order.

    Raises
    ------
    UsageError
        If nothing is left of the edit in hand.
    """
    size, taken, whole = _size(model.runner(state.layer).map_size), set[int](), None
    hand = state.edits()[0]
    parts: list[tuple[bool, Edit]] = []
    for each in sorted(state.edits(), key=lambda each: (each.mode == "ablate", each.target)):
        units = tuple(unit for unit in each.units or () if unit not in taken)
        region = torch.from_numpy(decode_region(each.region, size)).float() if each.region else None
        if each.mode == "ablate":
            part = ablate(units, region=region)
        else:
            part = insert(units, model.levels(state.layer, each.target), region)
            taken.update(units)
        if units:
            parts.append((each == hand, replace(part, alpha=each.alpha)))
    for _, part in sorted(
        parts, key=lambda part: part[0]
    ):  # that in hand is the outermost: a dose is its share of the way
        whole = replace(part, then=whole)
    if whole is None or not any(in_hand for in_hand, _ in parts):
        raise UsageError(f"All of these {hand.target} units are inserted for another object: choose more of them.")
    return whole


@torch.inference_mode()
def look(state: State, model: Model, ranked: Ranked) -> View:
    """Make the images of a settled state: original, edited live, edited held."""
    model.moved()
    with model.hand:
        runner = model.runner(state.layer)
        asked = named(state, ranked)
        arms = [REFERENCE]
        if all(each.units for each in asked.edits()):
            change = edit(asked, model)
            arms += [Arm(change), Arm(change, hold(state.control, state.hold, runner.downstream))]
        images, readings = runner.read(model.latents(state.seed, [state.number]), arms)
        labels = labelled(model.segmenter, images[:, 0]).cpu().numpy()
        gain = readings.gain(runner.downstream[0], 1)[0] if len(arms) > 1 else torch.empty(0, 0)
    activations = readings.layer[0].float().cpu().numpy()
    places = tuple(counted(each, model, labels[0]) for each in state.edits())
    return View(state, pictures(images[:, 0]), labels, activations, gain.float().cpu().numpy(), places)


def counted(state: State, model: Model, labels: np.ndarray) -> np.ndarray:
    """The pixels on which an edit's outcome is counted, bool (..., H, W), by the `labels` of the unedited images."""
    if state.mode == "insert":
        return np.broadcast_to(decode_region(state.region, _size(labels.shape[-2:])), labels.shape)
    return labels == model.segmenter.classes.index(state.target)


@torch.inference_mode()
def neighbour(state: State, model: Model, step: int) -> int:
    """The number of the next image (or, with a step of -1, of the one before) that shows the object.

    It covers `SIZABLE` of that image. Where none of `SOUGHT` shows it, the number is that of the very next.
    """
    model.moved()
    k, at = model.segmenter.classes.index(state.target), range(state.number + step, MOST if step > 0 else -1, step)
    for start in range(0, min(SOUGHT, len(at)), 8):
        numbers = at[start : start + 8]
        with model.hand:
            images = model.generator(model.latents(state.seed, numbers))
            shown = (labelled(model.segmenter, images) == k).float().mean(dim=(1, 2)) >= SIZABLE
        if shown.any():
            return numbers[int(shown.int().argmax())]
    return at[0] if at else state.number


@torch.inference_mode()
def opening(model: Model, ranked: Ranked) -> State:
    """Where to begin: the object on whose removal normalization acts most steadily, and the image that shows it best.

    Over half a glance of images, an object's pixels that are removed live and held are compared as in a study, with the defaults
    of a `State`. The object is that of the largest mean difference in units of its standard error, among the `TRIED` of largest
    area; and the image that of the largest difference of the same sign in which the object covers at least `SIZABLE`.
    """
    with model.hand:
        state = settle(State(), model)
        z = model.latents(state.seed, range(max(2, model.glance // 2)))
        original = _labels(model, state, z, [REFERENCE])[0]
        area = {name: (original == model.segmenter.classes.index(name)).mean(axis=(1, 2)) for name in model.objects}
        sizable = [name for name in sorted(area, key=lambda name: -area[name].mean()) if area[name].max() >= SIZABLE]
        held = hold(state.control, state.hold, model.runner(state.layer).downstream)
        best, found = -1.0, state
        for target in sizable[:TRIED]:
            units = chosen(replace(state, target=target), ranked)
            assert units is not None, "the units must have been ranked"
            labels = _labels(model, state, z, [REFERENCE, Arm(ablate(units)), Arm(ablate(units), held)])
            there = labels == model.segmenter.classes.index(target)
            left = (there[1:] & there[:1]).mean(axis=(2, 3))
            moved = left[1] - left[0]  # more removed live than held
            steady = moved.mean() / max(moved.std(ddof=1), 1e-9)
            shown = np.where(area[target] >= SIZABLE, np.sign(steady) * moved / np.maximum(area[target], 1e-9), -np.inf)
            if abs(steady) > best:
                best, found = abs(steady), replace(state, target=target, number=int(shown.argmax()))
    return found


def difference(view: View) -> np.ndarray:
    """What normalization did to the picture: live minus held, mean over colours, in [-1, 1] of the full range, (H, W)."""
    live, held = view.images[1:3].astype(np.float32).mean(axis=-1) / 255
    return live - held


def _labels(model: Model, state: State, z: torch.Tensor, arms: Sequence[Arm]) -> np.ndarray:
    """Class of each pixel in each arm, (arms, n, H, W), as many images at a time as fit."""
    runner, labels = model.runner(state.layer), []
    for part in z.split(max(1, model.rows // len(arms))):
        images = runner.run(part, arms)
        labels.append(labelled(model.segmenter, images.flatten(0, 1)).unflatten(0, images.shape[:2]).cpu().numpy())
    return np.concatenate(labels, axis=1)


def _size(size: Sequence[int]) -> tuple[int, int]:
    return int(size[0]), int(size[1])


def _middle(size: tuple[int, int]) -> np.ndarray:
    """A quarter of the map, in its middle, bool (h, w)."""
    mask = np.zeros(size, bool)
    rows, columns = (slice(n // 4, max(n // 4 + 1, 3 * n // 4)) for n in size)
    mask[rows, columns] = True
    return mask
