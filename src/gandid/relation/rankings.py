"""The three ways to find the units of a class: each unit ablated alone, as few of them as settle it, or `alpha` of all together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gandid.interventions import Runner
from gandid.relation import screening
from gandid.relation.ablations import Kept, drops
from gandid.relation.optimized import STEPS, optimize
from gandid.relation.soft import first_order
from gandid.segmenters import Segmenter

Advance = Callable[[Any], None]  # told how much has been done since the last call, in latents or parts of them
Found = tuple[dict[str, Any], dict[str, Any]]  # variables and attributes of the relation

PAIR = ("unit", "object")


@dataclass(frozen=True)
class Setting:
    """What every ranking needs.

    Attributes
    ----------
    z : Tensor of shape (n, latent_dim)
    before : array of shape (n, classes), float32
        Area of the unedited images.
    rows : int
        Images that may be made at once.
    kept : Kept
        What was done before, and is done now.
    on_progress : callable
        Told, in all, of as many latents as there are.
    """

    runner: Runner
    segmenter: Segmenter
    z: Tensor
    before: np.ndarray
    rows: int
    kept: Kept
    on_progress: Advance

    def drops(self, latent: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """Measured or kept, for latents and units (pairs,): (pairs, classes) float32."""
        work = partial(drops, self.runner, self.segmenter, self.z, self.before, latent, unit, self.rows)
        return self.kept.rows(len(latent), self.before.shape[1:], work)


def exact(setting: Setting, weight: float = 1.0) -> Found:
    """Every unit ablated on every latent; `weight` is the part of the progress that this is."""
    n, classes = setting.before.shape
    units, block = setting.runner.units, max(1, setting.rows // setting.runner.units)
    drop = np.empty((n, units, classes), np.float32)
    for start in range(0, n, block):
        latents = min(block, n - start)
        latent, unit = np.divmod(np.arange(latents * units) + start * units, units)
        drop[start : start + block] = setting.drops(latent, unit).reshape(latents, units, classes)
        setting.on_progress(weight * latents)
    return _effects(drop, drop, np.zeros((units, classes))), {}


def screened(setting: Setting, objects: Sequence[str], targets: Sequence[str], count: int) -> Found:
    """Units ablated as far as it takes to settle the targets' largest ACEs, and the ACEs on all objects estimated."""
    runner, classes, (n, _) = setting.runner, setting.segmenter.classes, setting.before.shape
    names = [c for c in classes if c in {*objects, *targets}]
    numbers = np.array([classes.index(c) for c in names])
    # What is measured is decided by these numbers; a ranking that goes on must go by the same.
    before = setting.kept.rows(n, setting.before.shape[1:], lambda: setting.before)
    first = setting.kept.rows(
        n,
        (runner.units, len(names)),
        lambda: first_order(
            runner,
            setting.segmenter,
            setting.z,
            before,
            numbers,
            setting.rows,
            lambda done: setting.on_progress(done / 2),
        ),
    )
    drop = np.full((n, runner.units, len(classes)), np.nan, np.float32)

    def measure(latent: np.ndarray, unit: np.ndarray) -> np.ndarray:
        for start in range(0, len(latent), setting.rows):
            some = latent[start : start + setting.rows], unit[start : start + setting.rows]
            drop[some] = setting.drops(*some)
        return drop[latent, unit][:, numbers]

    def on_settled(more: int) -> None:
        setting.on_progress(n / 2 * more / len(targets))

    shown = before[:, numbers] > 0
    screening.screen(first, shown, np.array([names.index(t) for t in targets]), count, measure, on_settled)
    known = screening.estimate(first, drop[..., numbers], shown)
    expected, error = np.full(drop.shape, np.nan, np.float32), np.full(drop.shape[1:], np.nan)
    expected[..., numbers], error[:, numbers] = known.expected, known.error
    about = {
        "targets": list(targets),
        "units": count,
        "share": screening.SHARE,
        "confidence": screening.CONFIDENCE,
        "ablations": int(np.isfinite(drop[..., 0]).sum()),
    }
    return _effects(drop, expected, error) | {"expected": (("latent", *PAIR), expected)}, about


def optimized(setting: Setting, targets: Sequence[str]) -> Found:
    """As `exact`, and `alpha` of the targets; NaN for other classes."""
    found, about = exact(setting, weight=0.5)
    units, classes = setting.runner.units, setting.segmenter.classes
    alpha = np.full((units, len(classes)), np.nan, np.float32)

    def step(steps: int) -> None:
        setting.on_progress(len(setting.z) / 2 * steps / (len(targets) * STEPS))

    for target in targets:
        number = classes.index(target)
        shows = setting.z[torch.from_numpy(setting.before[:, number] > 0).to(setting.z.device)]
        learn = partial(optimize, setting.runner, setting.segmenter, shows, number, setting.rows, step)
        alpha[:, number] = setting.kept.rows(units, (), learn)
    return found | {"alpha": (PAIR, alpha)}, about


def _effects(drop: np.ndarray, expected: np.ndarray, error: np.ndarray) -> dict[str, Any]:
    """Variables of the ablations, from drops as measured, as expected, and the standard deviation of the latter's mean."""
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
