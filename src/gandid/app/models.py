"""The networks of the page, one set per generator, and what is learned of their units while the page is open."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import torch
import xarray as xr
from torch import Tensor, nn

from gandid.errors import UsageError, first_line
from gandid.files import replacing
from gandid.generators import NAMED, load_discriminator
from gandid.interventions import Runner, adapted
from gandid.latents import latents
from gandid.measure.memory import rows_that_fit
from gandid.panel.schema import PRESENCE
from gandid.ranking import relate
from gandid.ranking.insertion import Levels, levels
from gandid.runs import fingerprint, versions
from gandid.segmenters import Segmenter, objects_of

STAGES = (4, 16, 64, 128)  # latents of the ranking: a first one within seconds, then finer ones in the background
FIRST = STAGES[1]  # latents of the ranking of layers that nobody has asked for
ROWS = 16  # images made at once in the background: a burst that the hand hardly feels, and as quick per image as larger ones
MOST_LAYERS = 16
QUIET = 0.6  # seconds that the ranking rests after a move of the hand, so that the next one has the machine for itself
GLANCE = 64  # images of 64 x 64 pixels, or as many fewer of larger ones: what is made while somebody waits


@dataclass(frozen=True)
class Ranked:
    """What is known of a layer's units so far."""

    relation: xr.Dataset | None = None
    """See `gandid.ranking.relate`; None until the first stage is done."""
    latents: int = 0
    """On which `relation` was measured."""
    done: float = 0
    """Latents of the stage that is under way."""
    problem: str = ""
    """Why there will be no ranking, in words."""

    @property
    def finished(self) -> bool:
        """Whether no further stage will come."""
        return self.latents == STAGES[-1] or bool(self.problem)

    @property
    def stage(self) -> int:
        """Latents of the stage that is under way."""
        return next((n for n in STAGES if n > self.latents), self.latents)


class Model:
    """A generator with a segmenter, and the layers of it that can be edited.

    The runner hooks into the modules of its generator, so that two passes of one generator must not overlap. The hand, the
    numbers and the ranking each have a copy of their own: none waits for another.

    Parameters
    ----------
    generator : nn.Module
    segmenter : Segmenter
    cache : Path
        Folder that keeps rankings from one start of the page to the next.
    layer : str, optional
        The layer that is edited at first; the default of a named generator, or the middle one.
    """

    def __init__(self, generator: nn.Module, segmenter: Segmenter, cache: Path, layer: str | None = None):
        self.generator = generator = adapted(generator)
        self.segmenter = segmenter
        self.name = getattr(generator, "name", None) or type(generator).__name__
        self.objects = objects_of(segmenter)
        if not self.objects:
            raise UsageError("the segmenter sees no objects: each of its classes is background")
        self.hand = threading.Lock()
        self.for_numbers: Any = copy.deepcopy(generator)
        self.discriminator = load_discriminator(self.name)
        torch.backends.cudnn.allow_tf32 = False  # fp32 as in a study; the process is the page's own
        self._runners: dict[tuple[str, bool], Runner] = {}
        self._levels: dict[str, Levels] = {}
        self.layers = self._find_layers(layer)
        default = layer or (NAMED[self.name].default_layer if self.name in NAMED else None)
        self.default_layer = default or self.layers[len(self.layers) // 2]
        runner = self.runner(self.default_layer)
        self.rows = min(ROWS, rows_that_fit(runner, segmenter, self.latents(0, range(2))))
        self.glance = max(2, min(GLANCE, GLANCE * 64**2 // math.prod(runner.image_size)))
        self._moved = -QUIET
        known = f"{fingerprint(generator)}{fingerprint(segmenter)}{versions()}{segmenter.classes}"
        stem = hashlib.sha256(known.encode()).hexdigest()[:16]
        others = self.layers if self.glance == GLANCE else ()  # of larger images they would take hours
        self.rankings = Rankings(copy.deepcopy(generator), segmenter, cache / stem, self.rest, self.rows, others)

    def runner(self, layer: str, *, aside: bool = False) -> Runner:
        """The runner of a layer, for the hand (take the lock `hand` while it runs), or `aside`, for the numbers."""
        if (layer, aside) not in self._runners:
            runner = Runner(self.for_numbers if aside else self.generator, layer)
            runner.check_sites()
            self._runners[layer, aside] = runner
        return self._runners[layer, aside]

    def latents(self, seed: int, numbers: Sequence[int], stream: str = "effects") -> Tensor:
        """Latents by number, on the generator's device."""
        return latents(seed, numbers, self.generator.latent_dim, stream).to(self.runner(self.default_layer).device)

    def moved(self) -> None:
        """Note that the hand has moved."""
        self._moved = time.monotonic()

    def levels(self, layer: str, target: str) -> Tensor:
        """Each unit's mean (C,) over the positions where an object is seen: what insertion sets it to (docs/relation.md, "Insertion").

        Raises
        ------
        UsageError
            If the object is never seen.
        """
        if layer not in self._levels:
            z = self.latents(0, range(self.glance), "ranking")
            self._levels[layer] = levels(self.runner(layer), self.segmenter, z, PRESENCE, self.rows)
        return self._levels[layer].shown(target)

    def rest(self) -> None:
        """Wait until the hand has been still for a while."""
        while (left := self._moved + QUIET - time.monotonic()) > 0:
            time.sleep(left)

    def _find_layers(self, asked: str | None) -> tuple[str, ...]:
        """The layers that a generator names itself; else its modules that can be edited, in its order."""
        if asked is not None:
            self.runner(asked)  # raises if it cannot be edited
        if named := getattr(self.generator, "layers", None):
            return tuple(named)  # each is tried when it is chosen: trying takes a second
        names = [name for name, _ in self.generator.named_modules() if name]
        found, problem = {asked} if asked is not None else set(), ""
        for name in names:
            if len(found) == MOST_LAYERS:
                break
            try:
                self.runner(name)
                found.add(name)
            except UsageError as error:
                problem = problem or str(error)
        if not found:
            raise UsageError(f"none of the generator's layers can be edited: {problem}")
        return tuple(sorted(found, key=names.index))


class Rankings:
    """Ranks the units of the layers that were asked for, on more and more latents, in a thread of its own.

    When the layer that was asked for is done, `others` get a first ranking. What has been measured is kept in a file per layer,
    whose path begins with `stem`, so that the next start of the page has it at once. `rest` is called between two passes, and may
    wait.
    """

    def __init__(
        self,
        generator: Any,
        segmenter: Segmenter,
        stem: Path,
        rest: Callable[[], None],
        rows: int,
        others: Sequence[str] = (),
    ):
        self.generator, self.stem, self.rows, self.others = generator, stem, rows, others
        self.segmenter: Segmenter = _Resting(segmenter, self._rest)
        self._until_still = rest
        self._known: dict[str, Ranked] = {}
        self._wanted = ""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def get(self, layer: str) -> Ranked:
        """What is known by now; from now on this layer is the one that is worked on."""
        with self._changed:
            self._wanted = layer
            ranked = self.known(layer)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._work, daemon=True, name="ranking")
                self._thread.start()
            self._changed.notify_all()
            return ranked

    def known(self, layer: str) -> Ranked:
        """What is known by now, and nothing is begun."""
        with self._changed:
            if layer not in self._known:
                self._known[layer] = self._load(layer)
            return self._known[layer]

    def _next(self) -> str | None:
        """The layer that is to be worked on."""
        if not self.known(self._wanted).finished:
            return self._wanted
        return next(
            (layer for layer in self.others if self.known(layer).latents < FIRST and not self.known(layer).problem),
            None,
        )

    def wait(self, layer: str, latents: int, timeout: float) -> Ranked:
        """As `get`, once the ranking is on so many latents at least, has failed, or the time (s) is over."""
        self.get(layer)
        with self._changed:
            self._changed.wait_for(
                lambda: self._known[layer].latents >= latents or self._known[layer].finished, timeout
            )
            return self._known[layer]

    def close(self, patience: float | None = None) -> None:
        """Stop after the next batch, and wait for it, at most so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(patience)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next())
                layer = self._next()
                if self._closed or layer is None:
                    return
                stage = self._known[layer].stage
            try:
                relation = self._rank(layer, stage)
            except _Abandoned:
                continue
            except Exception as error:  # the last in this thread: the page says what went wrong, and goes on without
                self._note(layer, problem=first_line(error))
                continue
            # What is known is kept already; on a full disk the next start ranks anew.
            with contextlib.suppress(OSError), replacing(self._file(layer)) as part:
                relation[["ace", "iou", "energy"]].assign_attrs(ranked_on=stage).to_netcdf(part, engine="scipy")
            self._note(layer, relation=relation, latents=stage, done=0)

    def _rest(self) -> None:
        self._until_still()
        if self._closed:
            raise _Abandoned

    def _file(self, layer: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}-{layer}.nc")

    def _load(self, layer: str) -> Ranked:
        """What an earlier start has learned of a layer."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            relation = xr.load_dataset(self._file(layer), engine="scipy")
            return Ranked(relation, int(relation.attrs["ranked_on"]))
        return Ranked()

    def _rank(self, layer: str, stage: int) -> xr.Dataset:
        runner = Runner(self.generator, layer)
        z = latents(0, range(stage), self.generator.latent_dim, "ranking").to(runner.device)
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        done = 0.0

        def on_progress(count: float) -> None:
            nonlocal done
            done += count
            self._note(layer, done=done)
            if self._closed or self._next() != layer:
                raise _Abandoned

        kept: Path | None = self.stem.with_name(f"{self.stem.name}-{layer}.ace")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(filelock.FileLock(f"{kept}.lock", blocking=False))
            except filelock.Timeout:  # another page of the same folder is at it
                kept = None
            return relate(runner, self.segmenter, z, on_progress, rows=self.rows, kept=kept)

    def _note(self, layer: str, **news: Any) -> None:
        with self._changed:
            self._known[layer] = replace(self._known[layer], **news)
            self._changed.notify_all()


class _Resting:
    """A segmenter that rests before each batch: the ranking calls it between its passes."""

    def __init__(self, segmenter: Segmenter, rest: Callable[[], None]):
        self.classes, self.background = segmenter.classes, segmenter.background
        self._segmenter, self._rest = segmenter, rest

    def __call__(self, images: Tensor) -> Tensor:
        self._rest()
        return self._segmenter(images)


class _Abandoned(Exception):
    """The user looks at a layer of which less is known, or the page is closed."""
