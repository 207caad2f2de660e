"""The design of a study: which arms it has, and the numbers that one chunk of latents gives in each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gandid import outcomes
from gandid.generators import Discriminator
from gandid.interventions import EXACT_CONTROLS, REFERENCE, Arm, Edit, Readings, Runner, hold
from gandid.segmenters import Segmenter, objects_of

QUANTILES = (0.01, 0.5, 0.99)
# A pixel is uncertain if its class has a lower probability than this: no class has the majority. A segmenter whose
# probabilities are frequencies is wrong there more often than right (Guo et al. 2017, "On Calibration of Modern Neural Networks").
UNCERTAIN = 0.5


@dataclass(frozen=True)
class Held:
    """One control at one held set, as an arm is named in the panel."""

    control: str
    which: str  # "first", "all", or site names joined by "+"

    @property
    def name(self) -> str:
        return f"{self.control}:{self.which}"

    @property
    def unedited(self) -> str | None:
        """Name of the arm that is its baseline, if that is another image than the reference."""
        return None if self.control in EXACT_CONTROLS else f"{self.name}/unedited"

    def sites(self, downstream: Sequence[str]) -> dict[str, str]:
        """{site: control} for the sites after the edited layer."""
        which = self.which if self.which in ("first", "all") else self.which.split("+")
        return hold(self.control, which, downstream)


def short_names(names: Sequence[str]) -> list[str]:
    """Names of several twins, without the folders and the ends that all of them have: of `a/x/net.pt`, `a/y/net.pt`, `x` and `y`."""
    parts = [list(Path(name).parts) for name in names]
    while len({part[0] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[1:] for part in parts]
    while len({part[-1] for part in parts}) == 1 and min(map(len, parts)) > 1:
        parts = [part[:-1] for part in parts]
    return ["/".join(part).removesuffix(".safetensors") for part in parts]


@dataclass(frozen=True)
class Design:
    """Targets with their edits, and the regimes in which each is tried.

    The arms of the panel are `reference`, `live`, one per held set and one per twin, and at last the unedited arms of the
    controls that have a baseline of their own. Arms that are one and the same are run once: at the first site an ablation
    towards zero can only lower the statistic, so there `capped` and `frozen` are identical.
    """

    edits: Mapping[str, Edit]
    held: tuple[Held, ...]
    shrinking: bool  # whether every edit can only lower the first site's statistic
    inert: frozenset[Held] = frozenset()  # held sets no site of which can respond: they are the live arm
    twins: Mapping[Held, Mapping[str, Edit]] = field(default_factory=dict)  # the edits of each, on its own units

    @property
    def arms(self) -> list[str]:
        own = [held.unedited for held in (*self.held, *self.twins) if held.unedited]
        return ["reference", "live", *(held.name for held in (*self.held, *self.twins)), *own]

    @property
    def exact(self) -> tuple[Held, ...]:
        """The held sets whose baseline is the reference."""
        return tuple(held for held in self.held if held.unedited is None)

    @property
    def images(self) -> int:
        """Images that are made of each latent."""
        return len(self.distinct()) + sum(1 + len(edits) for edits in self.twins.values())

    def of_twin(self, twin: Held) -> Design:
        """What is run of a twin: every edit, live."""
        return Design(self.twins[twin], (), shrinking=False)

    def distinct(self) -> list[tuple[str | None, Held | None]]:
        """(target, held) of every row block of a batch; the reference arm first."""
        blocks: list[tuple[str | None, Held | None]] = [(None, None)]
        blocks += [(None, held) for held in self.held if held.unedited]
        for target in self.edits:
            blocks += [(target, held) for held in dict.fromkeys([None, *map(self.canonical, self.held)])]
        return blocks

    def canonical(self, held: Held) -> Held | None:
        """The held set that is run in place of this one; None is the live arm."""
        if held in self.inert:
            return None
        if self.shrinking and held.which == "first" and held in self.exact:
            return next(other for other in self.exact if other.which == "first")
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
    """Run all arms of one network on a batch of latents (n, latent_dim) and measure them; `joined` adds those of its twins.

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
    n, classes, downstream = len(z), segmenter.classes, runner.downstream
    labels: list[np.ndarray] = []
    strain, realism, uncertain = [], [], []
    gains = _Gains.empty(n, len(design.edits), runner.map_size)
    natural = np.empty(0)
    for group, fresh in _groups(design, n, rows):
        images, readings = runner.read(z, [_arm(design, downstream, *block) for block in group], donors=donors)
        images = images[fresh]
        seen, doubt = _labels_and_doubt(segmenter, images)
        labels.append(seen)
        uncertain += doubt
        strain.append(_strain(readings, downstream, len(group), n)[fresh])
        if discriminator is not None:
            realism.append(discriminator(images.flatten(0, 1)).view(images.shape[:2]).float().cpu().numpy())
        if not natural.size:
            natural = _natural(readings, downstream, typical)
        if downstream:
            gains.add(design, group, readings, downstream[0], labels[0][0], classes)
    return _arranged(segmenter, design, np.concatenate(labels), np.concatenate(strain), realism, uncertain) | {
        "natural": natural,
        "gain": gains.inside,
        "gain_outside": gains.outside,
        "gain_error": gains.error,
        "gain_map": gains.maps,
    }


def count(
    runner: Runner, segmenter: Segmenter, design: Design, z: Tensor, *, rows: int, donors: Tensor | None = None
) -> dict[str, np.ndarray]:
    """Run all arms as `measure` does, and measure no more than `pixels` and `inside`."""
    labels = []
    for group, fresh in _groups(design, len(z), rows):
        arms = [_arm(design, runner.downstream, *block) for block in group]
        labels.append(_labels(segmenter, runner.run(z, arms, donors=donors)[fresh]))
    return _counted(segmenter, design, np.concatenate(labels))


def _groups(design: Design, n: int, rows: int) -> Iterator[tuple[list[tuple[str | None, Held | None]], slice]]:
    """Row blocks that are run together on `n` latents, each time with the reference, and which of them are new."""
    blocks, size = design.distinct(), max(1, rows // n - 1)
    for start in range(1, len(blocks), size):
        yield [blocks[0], *blocks[start : start + size]], slice(0 if start == 1 else 1, None)


def _labels(segmenter: Segmenter, images: Tensor) -> np.ndarray:
    """Labels of images (blocks, n, 3, H, W): (blocks, n, H, W)."""
    return _laid_out(segmenter, segmenter(images.flatten(0, 1)), images)


def _labels_and_doubt(segmenter: Segmenter, images: Tensor) -> tuple[np.ndarray, list[np.ndarray]]:
    """`_labels`, and where the segmenter tells it the share of pixels that are uncertain: one array (blocks, n), or none."""
    look = getattr(segmenter, "labels_and_confidence", None)
    if look is None:
        return _labels(segmenter, images), []
    labels, confidence = look(images.flatten(0, 1))
    share = (confidence < UNCERTAIN).float().mean(dim=(1, 2)).view(images.shape[:2])
    return _laid_out(segmenter, labels, images), [share.cpu().numpy()]


def _laid_out(segmenter: Segmenter, labels: Tensor, images: Tensor) -> np.ndarray:
    few = len(segmenter.classes) <= 256
    return labels.unflatten(0, images.shape[:2]).cpu().numpy().astype(np.uint8 if few else np.int32)


def _layout(design: Design) -> tuple[np.ndarray, list[int]]:
    """The row block of each target's arms, (target, arm), and of each arm's unedited image."""
    blocks, own = design.distinct(), [held for held in design.held if held.unedited]

    def row(target: str | None, held: Held | None) -> int:
        return blocks.index((target, held))

    rows = [
        [0, row(t, None), *(row(t, design.canonical(h)) for h in design.held), *(row(None, h) for h in own)]
        for t in design.edits
    ]
    unedited = [0, 0, *(row(None, h) if h in own else 0 for h in design.held), *(row(None, h) for h in own)]
    return np.array(rows), unedited


def _counted(segmenter: Segmenter, design: Design, labels: np.ndarray) -> dict[str, np.ndarray]:
    """`pixels` and `inside` of label maps (blocks, n, H, W), laid out by (latent, target, arm)."""
    classes, (rows, unedited) = segmenter.classes, _layout(design)
    counts = outcomes.pixels(labels, len(classes))[rows]  # (T, A, n, C)
    inside = [
        outcomes.inside(labels[of], labels[unedited] == classes.index(target), len(classes))
        for of, target in zip(rows, design.edits, strict=True)
    ]
    return {
        "pixels": np.moveaxis(counts, 2, 0).astype(np.int32),
        "inside": np.moveaxis(np.stack(inside), 2, 0).astype(np.int32),
    }


def _arranged(
    segmenter: Segmenter,
    design: Design,
    labels: np.ndarray,
    strain: np.ndarray,
    realism: list[np.ndarray],
    uncertain: list[np.ndarray],
) -> dict[str, np.ndarray]:
    """What was measured per row block (blocks, n, ...), counted and laid out by (latent, target, arm)."""
    classes, (rows, unedited) = segmenter.classes, _layout(design)
    objects = np.array([classes.index(name) for name in objects_of(segmenter)])
    painted = []
    for of, target in zip(rows, design.edits, strict=True):
        others = objects[objects != classes.index(target)]
        painted.append((np.isin(labels[of], others) & (labels[unedited] == classes.index(target))).sum(axis=1))
    measured = _counted(segmenter, design, labels) | {
        "strain": np.moveaxis(strain[rows], 2, 0),
        "inpainted_map": np.stack(painted).astype(np.float64),
    }
    for name, values in (("realism", realism), ("uncertain", uncertain)):
        if values:
            measured[name] = np.moveaxis(np.concatenate(values)[rows], 2, 0)
    return measured


def joined(
    runner: Runner, design: Design, main: dict[str, np.ndarray], twins: Mapping[Held, dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `measure` gave of a network, with the arms of its twins, in the panel's order; nothing of a twin is held."""
    if not twins:
        return main
    found = dict(main)
    own = Design(design.edits, design.held, design.shrinking).arms
    names = [*own, *(name for twin in twins for name in (twin.name, twin.unedited))]
    order = [names.index(arm) for arm in design.arms]
    for name, axis in {"pixels": 2, "inside": 2, "realism": 2, "uncertain": 2, "inpainted_map": 1}.items():
        if name in main:
            # A twin's own arms are its reference and live.
            parts = [np.flip(of[name], axis=axis) for of in twins.values()]
            found[name] = np.concatenate([main[name], *parts], axis=axis).take(order, axis=axis)
    if "strain" in main:
        blank = np.zeros((*main["strain"].shape[:2], 2 * len(twins), *main["strain"].shape[3:]), np.float32)
        found["strain"] = np.concatenate([main["strain"], blank], axis=2).take(order, axis=2)
    return found


def exact_checks(runner: Runner, design: Design, z: Tensor) -> dict[str, np.ndarray]:
    """The checks whose right answer is known without sampling: `baseline_gap` (n, arm) and `placebo_gap` (n, target).

    Those of another network, and of the unedited arms themselves, are NaN.
    """
    held = [Arm(None, h.sites(runner.downstream)) for h in design.held]
    images = runner.run(z, [REFERENCE, *held])
    gap = np.full((len(z), len(design.arms)), np.nan, np.float32)
    gap[:, :2], gap[:, 2 : 2 + len(held)] = 0, _largest(images[1:] - images[:1]).T
    checks = {"baseline_gap": gap}
    if runner.upstream:
        pairs = [runner.placebo(z, Arm(edit)) for edit in design.edits.values() if edit.values is not None]
        if pairs:
            checks["placebo_gap"] = np.stack([_largest(held - live) for live, held in pairs], axis=1)
    return checks


def _arm(design: Design, downstream: Sequence[str], target: str | None, held: Held | None) -> Arm:
    if target is None and held is None:
        return REFERENCE
    return Arm(None if target is None else design.edits[target], held.sites(downstream) if held else {})


def _largest(difference: Tensor) -> np.ndarray:
    """Largest absolute value per image: (..., 3, H, W) -> (...)."""
    return difference.float().abs().amax(dim=(-3, -2, -1)).cpu().numpy()


def _strain(readings: Readings, downstream: Sequence[str], blocks: int, n: int) -> np.ndarray:
    """Quantiles over positions of log(held / natural): (blocks, n, site, quantile); 0 where the site is live."""
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
    return np.stack(columns, axis=1) if columns else np.empty((0, 0), np.float32)


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
