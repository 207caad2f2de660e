"""The three ways to find the units of a class (docs/relation.md, "Rankings"); each gives variables of the relation.

`exact` ablates every unit alone on every latent, `screened` only as far as it takes to settle the choice, and
`optimized` learns `alpha` of all units together besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gandid.interventions import Runner
from gandid.outcomes.counts import pixels
from gandid.ranking.gradients import STEPS, first_order, optimize
from gandid.ranking.journal import Journal
from gandid.ranking.screening import CONFIDENCE, SHARE, predict, screen
from gandid.segmenters import Segmenter, labelled
from gandid.threads import in_threads

PAIR = ("unit", "object")
Replica = tuple[Runner, Segmenter]


def area(labels: Tensor, classes: int) -> Tensor:
    """Share of the image that each class covers (n, classes), float64 on the CPU, of labels (n, H, W)."""
    return pixels(labels, classes).double().cpu() / labels[0].numel()


@dataclass(frozen=True)
class Ablations:
    """Ablations of single units on the latents of a ranking."""

    networks: Sequence[Replica]
    """Copies of the same, one for each thread."""
    z: Tensor
    """(n, latent_dim)."""
    area: np.ndarray
    """(n, classes), float32: area of each class in the unedited images, as a share of the image."""
    rows: int
    """Images that may be made at once."""
    journal: Journal
    advance: Callable[[float], None]
    """Called with the work done since the last call; all of a ranking is `n`."""

    @property
    def together(self) -> int:
        """Ablations that keep every thread busy for some time."""
        return self.rows if len(self.networks) == 1 else 2 * self.rows * len(self.networks)

    def drops(self, latent: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """Loss of area of every class, a share of the image, when one unit alone is set to zero in one latent.

        `latent` and `unit` are (pairs,), the losses (pairs, classes) float32. Pairs of one latent should be neighbours,
        for the network runs once on it up to the layer.
        """
        return self.journal.take((len(latent), self.area.shape[1]), lambda: self._measure(latent, unit))

    def _measure(self, latent: np.ndarray, unit: np.ndarray) -> np.ndarray:
        device, classes = self.z.device, self.area.shape[1]

        @torch.inference_mode()
        def after(networks: Replica, part: slice) -> np.ndarray:
            runner, segmenter = networks
            distinct, place = np.unique(latent[part], return_inverse=True)
            units = torch.from_numpy(unit[part]).to(device)
            scale = torch.ones(len(units), runner.units, device=device)
            scale[torch.arange(len(units), device=device), units] = 0
            z = self.z[torch.from_numpy(distinct).to(device)]
            labels = labelled(segmenter, runner.scaled(z, scale, torch.from_numpy(place).to(device)))
            return area(labels, classes).numpy()

        # An even number of equal parts, so that no thread waits for the last one; of how many threads there are the parts must not depend.
        ends = np.linspace(0, len(latent), 1 + 2 * -(-len(latent) // (2 * self.rows)), dtype=int)
        parts = [slice(start, stop) for start, stop in pairwise(ends) if start < stop]
        return (self.area[latent] - np.concatenate(list(in_threads(after, parts, self.networks)))).astype(np.float32)


def exact(ablations: Ablations, weight: float = 1.0) -> dict[str, Any]:
    """Every unit ablated on every latent; `weight` is the part of the progress that this is."""
    n, classes = ablations.area.shape
    units = ablations.networks[0][0].units
    block = max(1, ablations.together // units)
    drop = np.empty((n, units, classes), np.float32)
    for start in range(0, n, block):
        latents = min(block, n - start)
        latent, unit = np.divmod(np.arange(latents * units) + start * units, units)
        drop[start : start + block] = ablations.drops(latent, unit).reshape(latents, units, classes)
        ablations.advance(weight * latents)
    return _effects(drop, drop, np.zeros((units, classes)))


def screened(
    ablations: Ablations, objects: Sequence[str], targets: Sequence[str], count: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Units ablated until the `count` of largest ACE on each target are settled, and the ACEs on all objects estimated.

    Returns the variables, and attributes that say what was settled and how many ablations it took.
    """
    (runner, segmenter), (n, classes) = ablations.networks[0], ablations.area.shape
    units, rows = runner.units, ablations.rows
    names = [name for name in segmenter.classes if name in {*objects, *targets}]
    numbers = np.array([segmenter.classes.index(name) for name in names])
    # Areas and effects decide what is measured next; a ranking that goes on must go by the same, to the last bit.
    shown = ablations.journal.take((n, classes), lambda: ablations.area)[:, numbers] > 0
    effects = partial(
        first_order, ablations.networks, ablations.z, shown, numbers, rows, lambda done: ablations.advance(done / 2)
    )
    first = ablations.journal.take((n, units, len(names)), effects)
    drop = np.full((n, units, classes), np.nan, np.float32)

    def measure(latent: np.ndarray, unit: np.ndarray) -> np.ndarray:
        for start in range(0, len(latent), ablations.together):
            pairs = latent[start : start + ablations.together], unit[start : start + ablations.together]
            drop[pairs] = ablations.drops(*pairs)
        return drop[latent, unit][:, numbers]

    settled = np.array([names.index(target) for target in targets])
    screen(first, shown, settled, count, measure, lambda more: ablations.advance(n / 2 * more / len(targets)))
    prediction = predict(first, drop[..., numbers], shown)
    expected, error = np.full(drop.shape, np.nan, np.float32), np.full(drop.shape[1:], np.nan)
    expected[..., numbers], error[:, numbers] = prediction.expected, prediction.error
    made = int(np.isfinite(drop[..., 0]).sum())
    attributes = {"targets": list(targets), "units": count, "share": SHARE, "confidence": CONFIDENCE, "ablations": made}
    return _effects(drop, expected, error) | {"expected": (("latent", *PAIR), expected)}, attributes


def optimized(ablations: Ablations, targets: Sequence[str]) -> dict[str, Any]:
    """As `exact`, and `alpha` of the targets; NaN for other classes."""
    variables = exact(ablations, weight=0.5)
    (runner, segmenter), z = ablations.networks[0], ablations.z
    units, classes = runner.units, segmenter.classes
    alpha = np.full((units, len(classes)), np.nan, np.float32)

    def step(steps: int) -> None:
        ablations.advance(len(z) / 2 * steps / (len(targets) * STEPS))

    for target in targets:
        number = classes.index(target)
        shows = z[torch.from_numpy(ablations.area[:, number] > 0).to(z.device)]
        learn = partial(optimize, runner, segmenter, shows, number, ablations.rows, step)
        alpha[:, number] = ablations.journal.take((units,), learn)
    return variables | {"alpha": (PAIR, alpha)}


def _effects(drop: np.ndarray, expected: np.ndarray, error: np.ndarray) -> dict[str, Any]:
    """ACE and its standard error, from drops as measured, as expected, and the error of the latter's mean."""
    n = len(drop)
    complete = np.isfinite(drop[..., 0]).all(axis=0)
    whole = np.where(complete[:, None], drop, expected).astype(np.float64)
    sampling = whole.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(error.shape, np.nan)
    return {
        "ace": (PAIR, whole.mean(axis=0)),
        "ace_se": (PAIR, np.hypot(sampling, np.where(complete[:, None], 0, error))),
        "exact": ("unit", complete),
        "drop": (("latent", *PAIR), drop),
    }
