"""The design of a study: which arms it has, and the numbers that one chunk of latents gives in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gandid import outcomes
from gandid.generators import Discriminator
from gandid.interventions import REFERENCE, Arm, Edit, Readings, Runner, hold
from gandid.segmenters import Segmenter

QUANTILES = (0.01, 0.5, 0.99)
CHECKED = 8  # latents on which the exact checks (baseline gap, placebo site) are made
JUDGED = 256  # latents whose images the discriminator scores


@dataclass(frozen=True)
class Held:
    """One control at one held set, as an arm is named in the panel."""

    control: str
    which: str  # "first", "all", or site names joined by "+"

    @property
    def name(self) -> str:
        return f"{self.control}:{self.which}"

    def sites(self, downstream: Sequence[str]) -> dict[str, str]:
        """{site: control} for the sites after the edited layer."""
        which = self.which if self.which in ("first", "all") else self.which.split("+")
        return hold(self.control, which, downstream)


@dataclass(frozen=True)
class Design:
    """Targets with their edits, and the regimes in which each is tried.

    The arms of the panel are `reference`, `live` and one per held set. Arms that are one and the same are run once: at the
    first site an ablation towards zero can only lower the statistic, so there `capped` and `frozen` are identical.
    """

    edits: Mapping[str, Edit]
    held: tuple[Held, ...]
    shrinking: bool  # whether every edit only moves units towards zero

    @property
    def arms(self) -> list[str]:
        return ["reference", "live", *(held.name for held in self.held)]

    def distinct(self) -> list[tuple[str | None, Held | None]]:
        """(target, held) of every row block of a batch; the reference arm first."""
        blocks: list[tuple[str | None, Held | None]] = [(None, None)]
        for target in self.edits:
            blocks += [(target, None)]
            blocks += [(target, held) for held in dict.fromkeys(map(self.canonical, self.held))]
        return blocks

    def canonical(self, held: Held) -> Held:
        """The held set that is run in place of this one."""
        if self.shrinking and held.which == "first":
            return next(other for other in self.held if other.which == "first")
        return held


def measure(
    runner: Runner,
    segmenter: Segmenter,
    design: Design,
    z: Tensor,
    *,
    donors: Tensor | None = None,
    discriminator: Discriminator | None = None,
) -> dict[str, np.ndarray]:
    """Run all arms on a chunk of latents (n, latent_dim) and measure them.

    Returns
    -------
    dict of arrays
        The panel's variables (docs/panel.md), `latent` first where they have it. `gain_map` and `inpainted_map` are *sums* over
        the chunk's latents, for the caller to add up.
    """
    n, classes = len(z), segmenter.classes
    downstream, blocks = runner.downstream, design.distinct()
    arms = [_arm(design, downstream, target, held) for target, held in blocks]
    images, readings = runner.read(z, arms, donors=donors)
    labels = segmenter(images.flatten(0, 1)).unflatten(0, (len(arms), n)).cpu().numpy()
    # rows[t, a]: the row block in which arm `a` of target `t` was run
    rows = np.array(
        [
            [0, blocks.index((target, None)), *(blocks.index((target, design.canonical(h))) for h in design.held)]
            for target in design.edits
        ]
    )
    original = np.stack([labels[0] == classes.index(target) for target in design.edits])  # (T, n, H, W)
    counts = outcomes.pixels(labels, len(classes))[rows]  # (T, A, n, C)
    inside = outcomes.inside(labels[rows], original[:, None], len(classes))
    objects = np.array([i for i, name in enumerate(classes) if name not in segmenter.background and name != "unknown"])
    painted = np.stack(
        [
            (np.isin(labels[rows[t]], objects[objects != classes.index(target)]) & original[t]).sum(axis=1)
            for t, target in enumerate(design.edits)
        ]
    )
    measured: dict[str, np.ndarray] = {
        "pixels": np.moveaxis(counts, 2, 0).astype(np.int32),
        "inside": np.moveaxis(inside, 2, 0).astype(np.int32),
        "strain": np.moveaxis(_strain(readings, downstream)[rows], 2, 0),
        "natural": _natural(readings, downstream),
        "inpainted_map": painted.astype(np.float64),
    }
    if discriminator is not None:
        scores = discriminator(images.flatten(0, 1)).view(len(arms), n).cpu().numpy()
        measured["realism"] = np.moveaxis(scores[rows], 2, 0)
    return measured | _gain(design, readings, downstream[0], original, rows[:, 1])


def exact_checks(runner: Runner, design: Design, z: Tensor) -> dict[str, np.ndarray]:
    """The checks whose right answer is known without sampling: `baseline_gap` (n, arm) and `placebo_gap` (n, target)."""
    held = [Arm(None, h.sites(runner.downstream)) for h in design.held]
    images = runner.run(z, [REFERENCE, *held])
    gap = _largest(images[1:] - images[:1]).T
    checks = {"baseline_gap": np.concatenate([np.zeros((len(z), 2), np.float32), gap], axis=1)}
    if runner.upstream:
        pairs = [runner.placebo(z, Arm(edit)) for edit in design.edits.values() if edit.values is not None]
        if pairs:
            checks["placebo_gap"] = np.stack([_largest(held - live) for live, held in pairs], axis=1)
    return checks


def _arm(design: Design, downstream: Sequence[str], target: str | None, held: Held | None) -> Arm:
    if target is None:
        return REFERENCE
    return Arm(design.edits[target], held.sites(downstream) if held else {})


def _largest(difference: Tensor) -> np.ndarray:
    """Largest absolute value per image: (..., 3, H, W) -> (...)."""
    return difference.abs().amax(dim=(-3, -2, -1)).cpu().numpy()


def _strain(readings: Readings, downstream: Sequence[str]) -> np.ndarray:
    """Quantiles over positions of log(held / natural): (blocks, n, site, quantile); 0 where the site is live."""
    blocks, n = readings.natural[downstream[0]].shape[:2]
    strain = np.zeros((blocks, n, len(downstream), len(QUANTILES)), np.float32)
    for s, site in enumerate(downstream):
        held, natural = readings.held[site], readings.natural[site]
        if held is natural:  # no arm holds it
            continue
        for block in range(len(held)):
            ratio = (held[block] / natural[block]).flatten(1)
            if not (ratio == 1).all():
                strain[block, :, s] = _quantiles(ratio.log(), QUANTILES)
    return strain


def _natural(readings: Readings, downstream: Sequence[str]) -> np.ndarray:
    """How far each site's statistic differs between two latents' unedited images: (n, site), see docs/panel.md."""
    columns = []
    for site in downstream:
        reference = readings.natural[site][0].flatten(1).log()
        columns.append(_quantiles((reference - reference.roll(1, 0)).abs(), (0.99,))[:, 0])
    return np.stack(columns, axis=1)


def _quantiles(values: Tensor, quantiles: Sequence[float]) -> np.ndarray:
    """Quantiles of each row of (n, positions), the nearest rank: (n, quantiles)."""
    ordered = values.sort(dim=1).values
    ranks = [round(q * (values.shape[1] - 1)) for q in quantiles]
    return ordered[:, ranks].cpu().numpy()


def _gain(
    design: Design, readings: Readings, first: str, original: np.ndarray, live: np.ndarray
) -> dict[str, np.ndarray]:
    """Measured gain at the first site against its closed form (THEORY, "Closed form at the first site")."""
    layer = readings.layer
    n, targets, size = len(layer), len(design.edits), layer.shape[2:]
    statistic = readings.natural[first][:, :, 0]  # (blocks, n, h, w)
    energy = layer.square()
    total = energy.sum(dim=1)
    gain = np.full((n, targets), np.nan, np.float32)
    outside, error = gain.copy(), gain.copy()
    maps = np.zeros((targets, *size))
    for t, edit in enumerate(design.edits.values()):
        measured = statistic[0] / statistic[live[t]]
        maps[t] = measured.sum(dim=0).cpu().numpy()
        mask = torch.from_numpy(original[t]).to(layer)
        share = torch.nn.functional.interpolate(mask[:, None], size=tuple(size), mode="area")[:, 0]
        gain[:, t] = _weighted_mean(measured, share)
        outside[:, t] = _weighted_mean(measured, 1 - share)
        if edit.values is not None and not edit.values.any() and edit.alpha == 1 and edit.region is None:
            survivors = total - energy[:, list(edit.units)].sum(dim=1)
            closed = (total / survivors.clamp_min(torch.finfo(total.dtype).tiny)).sqrt()
            error[:, t] = (measured / closed - 1).abs().amax(dim=(1, 2)).cpu().numpy()
    return {"gain": gain, "gain_outside": outside, "gain_error": error, "gain_map": maps}


def _weighted_mean(values: Tensor, weights: Tensor) -> np.ndarray:
    """Mean over positions of (n, h, w) with weights; NaN where all weights are 0."""
    total = weights.sum(dim=(1, 2))
    return ((values * weights).sum(dim=(1, 2)) / total.where(total > 0, torch.nan)).cpu().numpy()
