"""The worker: holds the networks and measures a block of arms on some latents, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gandid.errors import GandidError
from gandid.generators import Discriminator
from gandid.interventions import REFERENCE, Readings, Runner, covered, register_sites, registered_sites
from gandid.interventions.normalizations import Statistic
from gandid.latents import chunked, latents
from gandid.measure.diagnosis import CHECKED, TYPICAL, Diagnosis, exact_checks, typical_statistics
from gandid.measure.experiment import Experiment, RowBlocks
from gandid.measure.features import features
from gandid.measure.memory import keep_freed_memory
from gandid.outcomes.counts import pixels
from gandid.panel.schema import FEATURED, FEATURES, NOT_MEASURED, PARTS
from gandid.panel.table import STUDY, Block, Coordinates
from gandid.segmenters import Segmenter, labelled, name_of
from gandid.threads import copied

COUNTED = ("pixels", "inside", "shared")
CALIBRATED = 128  # latents over which constants are taken, those of the control `mean` and of distilled networks
LATENTS_TOGETHER = 256  # latents of a batch at most

Rows = dict[str, np.ndarray]


@contextmanager
def arithmetic(device: torch.device, dtype: str) -> Iterator[None]:
    """The networks' arithmetic: fp32, tf32 (NVIDIA GPUs), or bf16 where PyTorch's autocast allows it.

    On a GPU PyTorch by itself rounds what convolutions multiply to the 10 bits of TF32, which is not what fp32 says.
    """
    with torch.autocast(device.type, torch.bfloat16) if dtype == "bf16" else nullcontext():
        if device.type != "cuda":
            yield
            return
        flags: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
        before = [each.allow_tf32 for each in flags]
        try:
            for each in flags:
                each.allow_tf32 = dtype == "tf32"
            yield
        finally:
            for each, allowed in zip(flags, before, strict=True):
                each.allow_tf32 = allowed


def fewer_rows(rows: int, device: torch.device) -> int:
    """Half as many images at once, after a device ran out of memory; raises `GandidError` where they are two already."""
    if rows <= 2:
        raise GandidError(f"one image and its reference do not fit the memory of {device}")
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return rows // 2


class Task(NamedTuple):
    """What a worker measures at a time."""

    block: int
    """Place of the block of arms."""
    numbers: tuple[int, ...]
    """The latents."""
    start: int
    """The row of the first of them in the panel."""
    segmenters: tuple[int, ...]
    """Places of those who label the images."""
    seconds: int
    """How many of the latents, the first, others than the study's segmenter look at."""


class Facts(NamedTuple):
    """What a generator is to an experiment: a worker's must be the driver's."""

    layer: str
    units: int
    image_size: tuple[int, ...]
    sites: tuple[tuple[str, bool], ...]
    """The sites after the layer, and whether each responds."""


def facts(runner: Runner) -> Facts:
    """The facts of a runner."""
    return Facts(runner.layer, runner.units, tuple(runner.image_size), tuple(runner.responds.items()))


@dataclass(frozen=True)
class Setting:
    """All that a worker needs; it can be sent to another process.

    Parameters
    ----------
    networks : mapping of str to nn.Module
        The generator as `own`, and the twins by name, on their device.
    segmenters : sequence of Segmenter
        The study's is the first.
    discriminator : Discriminator, optional
        Gives the images features by which arms are told apart, where there is one.
    layer : str
        The edited layer.
    experiment : Experiment
    seed : int
        Random seed for the latents.
    batch : int
        Latents of the study's own arms that are taken together.
    rows : int
        Images that may be made at once. Where they do not fit a GPU after all, it is halved, and the work goes on.
    workers : int
        Workers that may share this process, each with so many rows.
    dtype : {"fp32", "tf32", "bf16"}
    expected : Facts
        What the driver's generator is.
    constants : mapping of str to Statistic
        Those of the control `mean`, by site, where an arm needs them: see `Runner.calibrate`.
    soft : bool
        Whether probabilities are counted instead of labels.
    """

    networks: Mapping[str, nn.Module]
    segmenters: Sequence[Segmenter]
    discriminator: Discriminator | None
    layer: str
    experiment: Experiment
    seed: int
    batch: int
    rows: int
    workers: int
    dtype: str
    expected: Facts
    constants: Mapping[str, Statistic] = field(default_factory=dict)
    sites: Mapping[type, Any] = field(default_factory=registered_sites)
    """The types of module that the user has registered as sites."""
    soft: bool = False

    def copied(self) -> Setting:
        """The same for another thread: copies of the networks, with the same weights."""
        networks = {name: copied(network) for name, network in self.networks.items()}
        segmenters = [copied(segmenter) for segmenter in self.segmenters]
        return replace(self, networks=networks, segmenters=segmenters, discriminator=copied(self.discriminator))


class Worker:
    """Measures the arms of one study: a function of the task and of nothing else.

    Raises
    ------
    GandidError
        If the generator has other sites here than where the study was started.
    """

    def __init__(self, setting: Setting):
        keep_freed_memory()
        register_sites(setting.sites)
        self.setting, self.experiment, self.rows = setting, setting.experiment, setting.rows
        self.runners = {name: Runner(network, setting.layer) for name, network in setting.networks.items()}
        self.runner = self.runners["own"]
        self.runner.constants = setting.constants
        self.device = self.runner.device
        found = facts(self.runner)
        if found != setting.expected:
            raise GandidError(f"a worker's generator is not the study's: {found} there, {setting.expected} here")
        classes = [segmenter.classes for segmenter in setting.segmenters]
        self._objects = list(dict.fromkeys(name for names in classes for name in names))
        with arithmetic(self.device, setting.dtype):
            self._first = self.runner.run(self._latents(range(2)), [REFERENCE])[0]
            self._seen = [labelled(segmenter, self._first) for segmenter in setting.segmenters]

    def measure(self, task: Task) -> Rows:
        """The panel's variables along `latent`, of the task's arms and segmenters; `latent` among them."""
        block = self.experiment.blocks[task.block]
        batch = self.setting.batch if task.block == 0 else self.experiment.batch(block, self.rows, LATENTS_TOGETHER)
        step = max(1, min(batch, self.rows // 2))  # each latent comes with its reference arm at least
        segmenters = [self.setting.segmenters[place] for place in task.segmenters]
        diagnosed = block.name == STUDY and 0 in task.segmenters
        with arithmetic(self.device, self.setting.dtype):
            parts = [self._batch(block, some, segmenters, diagnosed) for some in chunked(task.numbers, step)]
            rows = joined(parts)
            if min(task.numbers) >= FEATURED:
                rows.pop("features", None)
            if diagnosed:
                rows |= self._exact_checks(task.numbers)
            self._check_unchanged()
        others = [s for s, place in enumerate(task.segmenters) if place > 0]
        for name in COUNTED:
            rows[name][others, task.seconds :] = NOT_MEASURED
        return rows | {"latent": np.array(task.numbers)}

    def _check_unchanged(self) -> None:
        """Refuse networks that have a memory: what they make of the first images has changed since they were begun with."""
        again = self.runner.run(self._latents(range(2)), [REFERENCE])[0]
        if not (again - self._first).abs().max() <= 1e-2 * self._first.abs().max():
            raise GandidError(
                "the generator makes other images than before of the same latents: its forward keeps a state"
            )
        for segmenter, before in zip(self.setting.segmenters, self._seen, strict=True):
            if (labelled(segmenter, self._first) != before).sum() > 1e-3 * before.numel():
                raise GandidError(f"{name_of(segmenter)} labels images otherwise than before: it keeps a state")

    def _batch(self, block: Block, numbers: Sequence[int], segmenters: Sequence[Segmenter], diagnosed: bool) -> Rows:
        if len(numbers) > max(1, self.rows // 2):  # fewer fit than was thought
            middle = len(numbers) // 2
            halves = [self._batch(block, half, segmenters, diagnosed) for half in (numbers[:middle], numbers[middle:])]
            return joined(halves)
        try:
            if self.experiment.selects(block):
                return self._shown(block, numbers, segmenters)
            return self._measured(block, numbers, segmenters, diagnosed, self.experiment.layouts(block))
        except torch.OutOfMemoryError:
            self.rows = fewer_rows(self.rows, self.device)
            return self._batch(block, numbers, segmenters, diagnosed)

    def _shown(self, block: Block, numbers: Sequence[int], segmenters: Sequence[Segmenter]) -> Rows:
        """A batch of latents in every arm of a block, each target's on those alone whose unedited images show it.

        On the others nothing of the target can be removed or in-painted: `inside` is 0 there, and `pixels` is not measured.
        """
        rows = self._blank(block, len(numbers), len(segmenters), NOT_MEASURED)
        seen: dict[str, list[Tensor]] = {}
        for layout in self.experiment.layouts(block):
            [target] = layout.targets
            if layout.network not in seen:
                unedited = [own for own in layout.blocks if own[0] is None]
                images = [found for _, _, found, _ in self._images(layout._replace(blocks=unedited), numbers, False)]
                seen[layout.network] = [_labelled(segmenter, torch.cat(images)) for segmenter in segmenters]
            shown = np.zeros(len(numbers), bool)
            for segmenter, maps in zip(segmenters, seen[layout.network], strict=True):
                hole = self.experiment.place(self.experiment.targets[target], segmenter.classes, maps, self._within)
                shown |= hole.flatten(2).any(2).any(0).cpu().numpy()
            if shown.any():
                some = self._measured(block, np.array(numbers)[shown].tolist(), segmenters, False, [layout])
                latents, places = np.flatnonzero(shown)[:, None], np.array(layout.places)
                for name in ("pixels", "inside"):
                    rows[name][:, latents, target, places] = some[name][:, :, target, places]
        return rows

    def _blank(self, block: Block, n: int, segmenters: int, pixels: int) -> Rows:
        """Counts of a block to be filled in; `pixels` stands where nothing is: no image, or a class that a segmenter does not know."""
        shape = segmenters, n, len(self.experiment.targets), len(block.arms), len(self._objects)
        rows = {"pixels": np.full(shape, pixels, np.int32), "inside": np.zeros(shape, np.int32)}
        return rows | {"shared": np.full(shape[:-1], NOT_MEASURED, np.int32)}

    @cached_property
    def _within(self) -> Tensor:
        """Which pixels (H, W) lie in the region of the edits."""
        size = self.runner.image_size
        return covered(self.experiment.region, size).reshape(size).to(self.device) >= 0.5

    def _measured(
        self,
        block: Block,
        numbers: Sequence[int],
        segmenters: Sequence[Segmenter],
        diagnosed: bool,
        layouts: Sequence[RowBlocks],
    ) -> Rows:
        """A batch of latents in the arms of some layouts of a block."""
        n, arms = len(numbers), len(block.arms)
        rows = self._blank(block, n, len(segmenters), 0)
        for layout in layouts:
            labels: list[list[Tensor]] = [[] for _ in segmenters]
            chances: list[list[Tensor]] = [[] for _ in segmenters]
            featured = block.featured and layout.network == "own" and segmenters[0] is self.setting.segmenters[0]
            looks: list[np.ndarray] = []
            diagnosis = self._diagnosis(layout, numbers) if diagnosed else None
            for group, fresh, images, readings in self._images(layout, numbers, diagnosed):
                for s, segmenter in enumerate(segmenters):
                    labels[s].append(_labelled(segmenter, images))
                    chances[s] += [_chances(segmenter, images)] if self.setting.soft else []
                    if diagnosis is not None and readings is not None and s == 0:
                        diagnosis.add(group, fresh, readings, labels[0][0][0], segmenter.classes)
                if featured:
                    wanted = self._wanted(group[fresh], labels[0][0][0], numbers, block)
                    looks.append(self._features(images, labels[0][-1], wanted))
            for s, segmenter in enumerate(segmenters):
                columns = [self._objects.index(name) for name in segmenter.classes]
                place, maps = (range(n), layout.targets, layout.places), torch.cat(labels[s])
                holes = self._holes(layout, segmenter, maps)
                with torch.autocast(self.device.type, enabled=False):  # which would round what is summed
                    weights = torch.cat(chances[s]) if chances[s] else None
                    counted = _counted(len(segmenter.classes), layout, holes, maps, weights)
                for name, counts in counted.items():
                    rows[name][np.ix_([s], *place, columns)] = counts.cpu().numpy()
                if block.name == STUDY and layout.network == "own":
                    rows["shared"][np.ix_([s], *place)] = _shared(segmenter, layout, holes, maps).cpu().numpy()
            if diagnosis is not None:
                diagnosis.put(rows, layout, arms)
            if featured:
                blank = np.full((n, len(self.experiment.targets), arms, FEATURES), np.nan, np.float16)
                blank[:, :, layout.places] = np.moveaxis(np.concatenate(looks)[layout.rows], 2, 0)
                rows["features"] = blank
        return rows

    def _holes(self, layout: RowBlocks, segmenter: Segmenter, labels: Tensor) -> Tensor:
        """The places of the targets of `layout.pairs` by label maps (blocks, n, H, W): bool (pairs, n, H, W)."""
        place, parts = self.experiment.place, []
        for t, target in enumerate(layout.targets):
            unedited = labels[layout.pairs[layout.pairs[:, 0] == t, 2]]
            parts.append(place(self.experiment.targets[target], segmenter.classes, unedited, self._within))
        return torch.cat(parts)

    def _wanted(self, group: Sequence[Any], original: Tensor, numbers: Sequence[int], block: Block) -> np.ndarray:
        """Which images are told apart by features (blocks, n): of the first latents, those whose unedited image has the target's place."""
        classes, first = self.setting.segmenters[0].classes, np.array(numbers) < FEATURED
        shown: dict[str | None, np.ndarray] = {
            name: first & self.experiment.place(name, classes, original, self._within).flatten(1).any(1).cpu().numpy()
            for name in self.experiment.targets
        }
        shown[None] = np.any(list(shown.values()), axis=0) & (block.name == STUDY)
        return np.stack([shown[target] for target, _ in group])

    def _features(self, images: Tensor, labels: Tensor, wanted: np.ndarray) -> np.ndarray:
        """Features of the `wanted` of images (blocks, n, 3, H, W): (blocks, n, FEATURES); NaN of others."""
        found = np.full((*wanted.shape, FEATURES), np.nan, np.float16)
        if wanted.any():
            some, classes = torch.from_numpy(wanted), len(self.setting.segmenters[0].classes)
            found[wanted] = features(images[some], labels[some], classes, self.setting.discriminator)
        return found

    def _images(
        self, layout: RowBlocks, numbers: Sequence[int], read: bool
    ) -> Iterator[tuple[list[tuple[str | None, Coordinates]], slice, Tensor, Readings | None]]:
        """Row blocks that are run together, each time with the reference; which of them are new, their images, what sites took."""
        runner, experiment = self.runners[layout.network], self.experiment
        z = self._latents(numbers, "effects", runner)
        donors = self._latents(numbers, "donors", runner) if experiment.resamples else None
        size = max(1, self.rows // len(numbers) - 1)
        for start in range(1, max(2, len(layout.blocks)), size):
            group = [layout.blocks[0], *layout.blocks[start : start + size]]
            arms, fresh = [experiment.arm(*block) for block in group], slice(0 if start == 1 else 1, None)
            if read:
                images, readings = runner.read(z, arms, donors=donors)
                yield group, fresh, images[fresh], readings
            else:
                yield group, fresh, runner.run(z, arms, donors=donors)[fresh], None

    def _diagnosis(self, layout: RowBlocks, numbers: Sequence[int]) -> Diagnosis:
        typical = {site: kept[[number % len(kept) for number in numbers]] for site, kept in self._typical.items()}
        asked = typical if layout.network == "own" else None
        return Diagnosis(self.runners[layout.network], self.experiment, numbers, asked)

    @cached_property
    def _typical(self) -> dict[str, Tensor]:
        parts = self._latents(range(TYPICAL), "typical").split(max(1, self.rows))
        found = [typical_statistics(self.runner, part) for part in parts]
        return {site: torch.cat([part[site] for part in found]) for site in found[0]}

    def _exact_checks(self, numbers: Sequence[int]) -> Rows:
        """`baseline_gap` and `placebo_gap` of the first latents of a study; NaN for the others."""
        blank = {"baseline_gap": len(self.experiment.study.arms)}
        if self.runner.upstream and not self.experiment.resamples:
            blank["placebo_gap"] = len(self.experiment.targets)
        checks = {name: np.full((len(numbers), width), np.nan, np.float32) for name, width in blank.items()}
        for row, number in enumerate(numbers):
            if number < CHECKED:
                for name, values in exact_checks(
                    self.runner, self.experiment, self._latents([number]), self.rows
                ).items():
                    checks[name][row] = values[0]
        return checks

    def _latents(self, numbers: Sequence[int], stream: str = "effects", runner: Runner | None = None) -> Tensor:
        generator: Any = (runner or self.runner).generator
        return latents(self.setting.seed, numbers, generator.latent_dim, stream).to(self.device)


def _labelled(segmenter: Segmenter, images: Tensor) -> Tensor:
    """Labels of images (blocks, n, 3, H, W), where they were made."""
    labels, few = labelled(segmenter, images.flatten(0, 1)), len(segmenter.classes) <= 256
    return labels.unflatten(0, images.shape[:2]).to(torch.uint8 if few else torch.int32)


def _chances(segmenter: Segmenter, images: Tensor) -> Tensor:
    """Probabilities (blocks, n, C, H, W) of images (blocks, n, 3, H, W), half precision."""
    found = segmenter.probabilities(images.flatten(0, 1))  # type: ignore[attr-defined]  # the study has seen that it has them
    return found.unflatten(0, images.shape[:2]).half()


def _counted(
    classes: int, layout: RowBlocks, holes: Tensor, labels: Tensor, chances: Tensor | None
) -> dict[str, Tensor]:
    """`pixels` and `inside` (n, target, arm, class) of label maps (blocks, n, H, W); inside of the places of pairs (pairs, n, H, W).

    With the `chances` of all classes (blocks, n, C, H, W) these are counted.
    """

    def count(blocks: Any, mask: Tensor | None = None) -> Tensor:
        return pixels(labels[blocks], classes, mask) if chances is None else _soft(chances[blocks], mask)

    found = {"pixels": count(slice(None))[layout.rows], "inside": count(layout.pairs[:, 1], holes)[layout.pair]}
    return {name: counts.movedim(2, 0) for name, counts in found.items()}


def _soft(chances: Tensor, mask: Tensor | None) -> Tensor:
    """The probability of each class, (..., C), summed over images (..., C, H, W) or where `mask` (..., H, W) is true.

    Whole numbers of 1 / `PARTS` of a pixel: over classes they sum to the pixels, since what rounding leaves is given to the largest.
    """
    maps = chances[..., 0, :, :]
    mask = torch.ones_like(maps, dtype=torch.bool) if mask is None else mask.expand(maps.shape)
    counts = (PARTS * torch.einsum("...chw,...hw->...c", chances.float(), mask.float())).round().to(torch.int32)
    left = PARTS * mask.sum(dim=(-2, -1), dtype=torch.int32) - counts.sum(dim=-1, dtype=torch.int32)
    return counts.scatter_add(-1, counts.argmax(dim=-1, keepdim=True), left[..., None])


def _shared(segmenter: Segmenter, layout: RowBlocks, holes: Tensor, labels: Tensor) -> Tensor:
    """How many pixels of a target's place are `unknown` in an arm and in live, the first arm after the reference: (n, target, arm)."""
    classes = list(segmenter.classes)
    if "unknown" not in classes:
        return torch.zeros(labels.shape[1], *layout.rows.shape, dtype=torch.int32, device=labels.device)
    unknown = labels == classes.index("unknown")
    both = unknown[layout.rows] & (unknown[layout.rows[:, 1]] & holes[layout.pair[:, 0]])[:, None]
    return both.flatten(3).sum(3, dtype=torch.int32).movedim(2, 0)


def joined(parts: Sequence[Rows]) -> Rows:
    """Several batches as one, along the latents: the second axis of counts, else the first."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: np.concatenate([part[name] for part in parts], axis=int(name in COUNTED)) for name in names}
