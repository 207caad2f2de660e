"""What a study will cost: its images are counted from the arm table, and timed on a short run of the same study."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gandid.measure.executors import Failed, Local
from gandid.measure.filling import chunk_length
from gandid.measure.memory import peak_memory
from gandid.measure.placebos import possible_draws
from gandid.measure.worker import Rows, Setting, Task, Worker
from gandid.panel.schema import FEATURED
from gandid.panel.store import read_panel
from gandid.panel.table import extra_blocks, is_twin
from gandid.ranking.figure import expected_images
from gandid.ranking.gradients import BATCH, MEMORY, STEPS, first_order
from gandid.ranking.relation import replicas

if TYPE_CHECKING:
    from gandid.config import StudyConfig
    from gandid.study import Study

CHUNKS = 2  # of latents that each thread of the calibration measures at most
SECONDS = 20.0  # that it should not take much more than
SETTLED = 0.55  # of all ablations of single units, what settles the targets of the embedded rooms (docs/performance.md)
DRAWN = 2**19  # bytes of a target's row of the figure, as PNG, SVG and PDF, beside its images
GROWN = 1.15  # the heap of a whole run over that of a short one, whose freed blocks fit the next ones better: 1.1 to 1.3 was seen
DIFFERENTIATED = 1.5  # images that take as long as one pass forward or backward with gradients


@dataclass(frozen=True)
class Plan:
    """The size of a study and what it will take on one worker."""

    arms: int
    """Arms of every target, the reference among them."""
    rows: int
    """Measurements in the panel: for every arm its latents times the targets."""
    images: int
    """Images that are made: arms that are one and the same are made once, those that are run apart of about as many latents as show
    the target; the ranking and the figure are counted in."""
    seconds: float
    """Time of the whole run, its report included."""
    disk: float
    """Bytes of the run's folder."""
    memory: int
    """Bytes of main memory at the peak: `GROWN` times those of the run of which the time was estimated, made of the same batches."""
    device: str

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        duration = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
        return (
            f"arms    {self.arms} per target\n"
            f"rows    {self.rows:,}\n"
            f"images  {self.images:,}\n"
            f"time    about {duration} on one worker ({self.device}), {self.images / self.seconds:,.0f} images per second\n"
            f"disk    about {self.disk / 2**20:,.1f} MiB\n"
            f"memory  about {self.memory / 2**30:,.2f} GiB at the peak"
        )


def plan(study: Study, config: StudyConfig, finish: Callable[[Path], Any]) -> Plan:
    """Estimate what a study takes by running a little of it, on units that were not ranked.

    The time of the ranking, and of what the figure shows beside the arms, is taken to be that of as many images of the arms.

    Parameters
    ----------
    study : Study
    config : StudyConfig
        What would be run.
    finish : callable
        What would follow it, see `Study.execute`.
    """
    named, n, units = study.targets(config), len(config.numbers()), study.unit_count(config)
    ranked = config.figure or None in named.values()
    targets = {target: own or tuple(range(units)) for target, own in named.items()}
    nothing = {"chunk": None, "until": None, "figure": False, "sites": None, "dose": (), "placebos": 0}
    # The units of a twin are ranked nevertheless. To ablate takes as long as to insert, and no level has to be known.
    small = config.model_copy(update=nothing | {"ranking_latents": 2, "targets": targets, "edit": "ablate"})
    with tempfile.TemporaryDirectory() as folder:
        store, first, clock, plain = Path(folder) / "run", _Clock(), _Clock(), _Clock()
        # The first pass through anything is slower than the others.
        study.execute(small.model_copy(update={"latents": 1}), store=store, executor=first)
        experiment = first.setting.experiment
        # At least a batch: the peak of memory is that of whole ones.
        most, few = CHUNKS * study.workers * chunk_length(first.setting.batch, n), round(SECONDS / first.seconds)
        count = max(1, min(n - 1, most, max(first.setting.batch, few)))
        before, start = _size(store / "panel.zarr"), time.perf_counter()
        study.execute(small.model_copy(update={"latents": 1 + count}), store=store, executor=clock, finish=finish)
        after = time.perf_counter() - start - clock.seconds
        each = (_size(store / "panel.zarr") - before) / count
        # Beyond the first latents, neither features nor exact checks are measured: so it is with the last part of many.
        parts = -(-FEATURED // count) + 1
        later = small.model_copy(update={"latents": parts * count, "chunk": f"{parts}/{parts}", "strength": ()})
        study.execute(later, store=Path(folder) / "later", executor=plain)
        unedited = read_panel(store / "panel.zarr").isel(segmenter=0, arm=0)
        shown = (unedited["inside"].sum("object") > 0).mean("latent").values
        disk = _size(store) + each * (n - 1 - count)
        seen = float((unedited["pixels"].isel(target=0).sel(object=list(study.objects)) > 0).sum("object").mean())
    if ranked and (config.ranking or study.default_ranking) != "exact":
        _differentiate(study)
    draws = possible_draws(experiment.own, study.runner.units, config.placebos) if config.placebos else 0
    sites = [site for site, responds in study.runner.responds.items() if responds]
    blocks = extra_blocks(
        [experiment.study],
        config.dose,
        config.strength,
        sites if config.sites else [],
        draws,
        config.halvings if None in named.values() else 0,
        config.seed,
    )
    own = experiment.images(experiment.study)
    numbers = [min(n, block.latents or n) for block in blocks]
    extra = sum(
        number * experiment.images(block, shown.tolist()) for number, block in zip(numbers, blocks, strict=True)
    )
    ranking = _ranking(study, config, named, seen) * (ranked + sum(map(is_twin, experiment.networks)))
    images = n * own + extra + ranking
    images += config.ranking_latents * (config.edit == "insert")
    if config.figure:
        edited, held = [len(own) for own in targets.values()], len(experiment.exact_held())
        images += expected_images(study.runner, edited, len(study.objects), units, config.ranking_latents, held)
    picture = 3 * math.prod(study.runner.image_size)
    # The relation keeps the images on which units are most active, and the report shows them.
    disk += 2 * picture * config.ranking_latents * ranked + len(named) * (16 * picture + DRAWN) * config.figure
    judged = sum(number < FEATURED for number in config.numbers()) * own
    arms = n * len(experiment.study.arms)
    arms += sum(number * len(block.arms) for number, block in zip(numbers, blocks, strict=True))
    return Plan(
        arms=len(experiment.study.arms) + sum(len(block.arms) for block in blocks),
        rows=arms * len(named),
        images=round(images),
        seconds=judged * clock.each(count) + (images - judged) * plain.each(count) + after,
        disk=disk,
        memory=round(GROWN * peak_memory()),
        device=str(study.device),
    )


def _differentiate(study: Study) -> None:
    """Differentiate as many images as a ranking does at once: nothing else takes as much memory."""
    networks = replicas(study.runner, study.segmenter, study.workers)
    n = max(1, study.rows // MEMORY) * len(networks)
    z, shown = study.latents(range(n), "ranking"), np.ones((n, 1), bool)
    study.fitted(lambda: first_order(networks, z, shown, np.array([0]), study.rows))


def _ranking(study: Study, config: StudyConfig, targets: Collection[str], seen: float) -> int:
    """About how many images the ranking takes, or as much time as so many do; an image shows `seen` objects on average."""
    exact = config.ranking_latents * (study.runner.units + 2)
    ranking = config.ranking or study.default_ranking
    if ranking == "screened":
        first = config.ranking_latents * (1 + seen) * DIFFERENTIATED
        return round(2 * config.ranking_latents + first + SETTLED * config.ranking_latents * study.runner.units)
    learned = len(targets) * STEPS * BATCH * 2 * DIFFERENTIATED if ranking == "optimized" else 0
    return round(exact + learned)


class _Clock(Local):
    """Measures in this process, and how long that and what is done with the measurements takes, once there are workers."""

    setting: Setting

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self.blocks = 0.0, set[int]()

    def each(self, latents: int) -> float:
        """Seconds per image, of so many latents in every arm."""
        experiment = self.setting.experiment
        return self.seconds / (latents * sum(experiment.images(experiment.blocks[block]) for block in self.blocks))

    def start(self, setting: Setting, tasks: int) -> list[Worker]:
        self.setting, workers = setting, super().start(setting, tasks)
        self.seconds -= time.perf_counter()
        return workers

    def map(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[tuple[Task, Rows | Failed]]:
        self.blocks |= {task.block for task in tasks}
        yield from super().map(setting, tasks)
        self.seconds += time.perf_counter() if tasks else 0


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
