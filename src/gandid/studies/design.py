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
from gandid.segmenters import Segmenter, objects_of

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
    shrinking: bool  # whether every edit can only lower the first site's statistic
    inert: frozenset[Held] = frozenset()  # held sets no site of which can respond: they are the live arm

    @property
    def arms(self) -> list[str]:
        return ["reference", "live", *(held.name for held in self.held)]

    def distinct(self) -> list[tuple[str | None, Held | None]]:
        """(target, held) of every row block of a batch; the reference arm first."""
        blocks: list[tuple[str | None, Held | None]] = [(None, None)]
        for target in self.edits:
            blocks += [(target, held) for held in dict.fromkeys([None, *map(self.canonical, self.held)])]
        return blocks

    def canonical(self, held: Held) -> Held | None:
        """The held set that is run in place of this one; None is the live arm."""
        if held in self.inert:
            return None
        if self.shrinking and held.which == "first":
            return next(other for other in self.held if other.which == "first")
        return held


def measure(
    runner: Runner,
    segmenter: Segmenter,
    design: Design,
    z: Tensor,
    typical: Mapping[str, Tensor],
    *,
    rows: int,
    donors: Tensor | None = None,
    discriminator: Discriminator | None = None,
) -> dict[str, np.ndarray]:
    """Run all arms on a batch of latents (n, latent_dim) and measure them.

    The arms are rows of one pass as long as `rows` allows. Beyond, they are taken in groups, each with the reference arm.

    Parameters
    ----------
    typical : mapping of str to Tensor (n, ...)
        Per downstream site, the statistic of another latent's unedited image, with which `natural` compares.
    rows : int
        How many images may be made at once.
    donors : Tensor (n, latent_dim), optional
        The other latents of resample ablation.
    discriminator : Discriminator, optional
        Scores the images, where there is one.

    Returns
    -------
    dict of arrays
        The panel's variables (docs/panel.md), `latent` first where they have it. `gain_map` and `inpainted_map` are *sums* over
        the latents, for the caller to add up.
    """
    n, classes = len(z), segmenter.classes
    downstream, blocks = runner.downstream, design.distinct()
    labels: list[np.ndarray] = []
    strain, realism = [], []
    gains = _Gains.empty(n, len(design.edits), runner.map_size)
    natural = np.empty(0)
    size = max(1, rows // n - 1)
    for start in range(1, len(blocks), size):
        group = [blocks[0], *blocks[start : start + size]]
        images, readings = runner.read(z, [_arm(design, downstream, *block) for block in group], donors=donors)
        fresh = slice(0 if start == 1 else 1, None)  # the reference arm is measured once
        images = images[fresh]
        seen = segmenter(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        labels.append(seen.cpu().numpy().astype(np.uint8 if len(classes) <= 256 else np.int32))
        strain.append(_strain(readings, downstream)[fresh])
        if discriminator is not None:
            realism.append(discriminator(images.flatten(0, 1)).view(images.shape[:2]).float().cpu().numpy())
        if start == 1:
            natural = _natural(readings, downstream, typical)
        gains.add(design, group, readings, downstream[0], labels[0][0], classes)
    return _arranged(segmenter, design, np.concatenate(labels), np.concatenate(strain), realism) | {
        "natural": natural,
        "gain": gains.inside,
        "gain_outside": gains.outside,
        "gain_error": gains.error,
        "gain_map": gains.maps,
    }


def _arranged(
    segmenter: Segmenter, design: Design, labels: np.ndarray, strain: np.ndarray, realism: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """What was measured per row block (blocks, n, ...), counted and laid out by (latent, target, arm)."""
    classes, blocks = segmenter.classes, design.distinct()
    # rows[t, a]: the row block in which arm `a` of target `t` was run
    rows = np.array(
        [
            [0, blocks.index((target, None)), *(blocks.index((target, design.canonical(h))) for h in design.held)]
            for target in design.edits
        ]
    )
    objects = np.array([classes.index(name) for name in objects_of(segmenter)])
    counts = outcomes.pixels(labels, len(classes))[rows]  # (T, A, n, C)
    inside, painted = [], []
    for row, target in zip(rows, design.edits, strict=True):
        original = labels[0] == classes.index(target)  # (n, H, W)
        inside.append(outcomes.inside(labels[row], original, len(classes)))
        others = objects[objects != classes.index(target)]
        painted.append((np.isin(labels[row], others) & original).sum(axis=1))
    measured = {
        "pixels": np.moveaxis(counts, 2, 0).astype(np.int32),
        "inside": np.moveaxis(np.stack(inside), 2, 0).astype(np.int32),
        "strain": np.moveaxis(strain[rows], 2, 0),
        "inpainted_map": np.stack(painted).astype(np.float64),
    }
    if realism:
        measured["realism"] = np.moveaxis(np.concatenate(realism)[rows], 2, 0)
    return measured


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
    return difference.float().abs().amax(dim=(-3, -2, -1)).cpu().numpy()


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


def typical_statistics(runner: Runner, z: Tensor) -> dict[str, Tensor]:
    """Per downstream site, the statistics of the unedited images of a few latents (k, latent_dim): (k, ...)."""
    _, readings = runner.read(z, [REFERENCE])
    return {site: readings.natural[site][0] for site in runner.downstream}


def _natural(readings: Readings, downstream: Sequence[str], typical: Mapping[str, Tensor]) -> np.ndarray:
    """How far each site's statistic differs between two latents' unedited images: (n, site), see docs/panel.md."""
    columns = [
        _quantiles((readings.natural[site][0] / typical[site]).flatten(1).log().abs(), (0.99,))[:, 0]
        for site in downstream
    ]
    return np.stack(columns, axis=1)


def _quantiles(values: Tensor, quantiles: Sequence[float]) -> np.ndarray:
    """Quantiles of each row of (n, positions), the nearest rank: (n, quantiles)."""
    ordered = values.sort(dim=1).values
    ranks = [round(q * (values.shape[1] - 1)) for q in quantiles]
    return ordered[:, ranks].float().cpu().numpy()


@dataclass
class _Gains:
    """Measured gain at the first site against its closed form (THEORY, "Closed form at the first site")."""

    inside: np.ndarray  # (n, T): mean over the target's original pixels
    outside: np.ndarray  # (n, T): mean over the others
    error: np.ndarray  # (n, T): largest relative deviation from the closed form
    maps: np.ndarray  # (T, h, w): summed over latents

    @classmethod
    def empty(cls, n: int, targets: int, size: tuple[int, ...]) -> _Gains:
        blank = np.full((n, targets), np.nan, np.float32)
        return cls(blank, blank.copy(), blank.copy(), np.zeros((targets, *size)))

    def add(
        self,
        design: Design,
        group: Sequence[tuple[str | None, Held | None]],
        readings: Readings,
        first: str,
        original: np.ndarray,
        classes: Sequence[str],
    ) -> None:
        """Measure the targets whose live arm is in this group; `original` (n, H, W) labels the unedited images."""
        energy = readings.layer.float().square()
        total = energy.sum(dim=1)
        for t, (target, edit) in enumerate(design.edits.items()):
            if (target, None) not in group:
                continue
            measured = readings.gain(first, group.index((target, None)))
            self.maps[t] = measured.sum(dim=0).cpu().numpy()
            mask = torch.from_numpy(original == classes.index(target)).to(energy)
            share = torch.nn.functional.interpolate(mask[:, None], size=tuple(measured.shape[1:]), mode="area")[:, 0]
            self.inside[:, t] = _weighted_mean(measured, share)
            self.outside[:, t] = _weighted_mean(measured, 1 - share)
            whole = edit.values is not None and not edit.values.any() and edit.alpha == 1 and edit.region is None
            if whole and readings.closed_form:
                survivors = total - energy[:, list(edit.units)].sum(dim=1)
                closed = (total / survivors.clamp_min(torch.finfo(total.dtype).tiny)).sqrt()
                self.error[:, t] = (measured / closed - 1).abs().amax(dim=(1, 2)).cpu().numpy()


def _weighted_mean(values: Tensor, weights: Tensor) -> np.ndarray:
    """Mean over positions of (n, h, w) with weights; NaN where all weights are 0."""
    total = weights.sum(dim=(1, 2))
    return ((values * weights).sum(dim=(1, 2)) / total.where(total > 0, torch.nan)).cpu().numpy()
