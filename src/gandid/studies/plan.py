"""What a study will cost, from a short calibration run of the same study."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from gandid.relation.optimized import BATCH, STEPS
from gandid.studies.config import StudyConfig
from gandid.studies.design import Design
from gandid.studies.executors import Chunk, Failed, Local, Measured
from gandid.studies.figure import expected_images
from gandid.studies.folder import Finish, open_panel
from gandid.studies.study import Study
from gandid.studies.worker import JUDGED, Worker

CHUNKS = 2  # of latents that the calibration measures at most
SECONDS = 20.0  # that it should not take much more than
SETTLED = 0.11  # of all ablations of single units, what settles the targets of the embedded rooms (docs/performance.md)
DRAWN = 2**19  # bytes of a target's row of the figure, as PNG, SVG and PDF, beside its images
DIFFERENTIATED = 1.5  # images that take as long as one pass forward or backward with gradients


@dataclass(frozen=True)
class Plan:
    """The size of a study and what it will take on one worker."""

    arms: int
    """Regimes per target, the reference among them."""
    rows: int
    """Rows of the panel: latents times targets times arms."""
    images: int
    """Images that are made: arms that are one and the same are made once; the ranking and the figure are counted in."""
    seconds: float
    """Time of the whole run, its report included."""
    disk: float
    """Bytes of the run's folder."""
    device: str

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        time_told = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
        return (
            f"arms    {self.arms} per target\n"
            f"rows    {self.rows:,}\n"
            f"images  {self.images:,}\n"
            f"time    about {time_told} on one worker ({self.device}), {self.images / self.seconds:,.0f} images per second\n"
            f"disk    about {self.disk / 2**20:,.1f} MiB"
        )


def plan(study: Study, config: StudyConfig, finish: Finish) -> Plan:
    """Estimate what a study takes by running a little of it, on units that were not ranked.

    The ranking, and what the figure shows beside the arms, are reckoned at the speed of the arms, whose images go the same way.

    Parameters
    ----------
    study : Study
    config : StudyConfig
        What would be run.
    finish : callable
        What would follow it, see `Study.execute`.
    """
    named, n = study.targets(config), len(config.numbers())
    ranked = config.figure or any(units is None for units in named.values())
    units = study.unit_count(config)
    small = config.model_copy(
        update={
            "chunk": None,
            "until": None,
            "figure": False,
            "sites": None,
            "dose": (),
            "placebos": 0,
            "ranking_latents": 2,  # those of a twin are ranked nevertheless
            "targets": {target: its or tuple(range(units)) for target, its in named.items()},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        store, first, clock = Path(folder) / "run", _Clock(), _Clock()
        # The first pass through anything is slower than the others.
        study.execute(small.model_copy(update={"latents": 1}), store=store, executor=first)
        panel = open_panel(store)
        most = CHUNKS * study.chunk_length(panel, n)
        count = max(1, min(most, n - 1, round(SECONDS / first.seconds)))
        before = _size(store / "panel.zarr")
        more = small.model_copy(update={"latents": 1 + count})
        start = time.perf_counter()
        study.execute(more, store=store, executor=clock, finish=finish)
        after = time.perf_counter() - start - clock.seconds
        each = (_size(store / "panel.zarr") - before) / count
        # Beyond the first latents, neither realism nor exact checks are measured: so it is with the last part of many.
        parts, plain = -(-JUDGED // count) + 1, _Clock()
        later = small.model_copy(update={"latents": parts * count, "chunk": f"{parts}/{parts}"})
        study.execute(later, store=Path(folder) / "later", executor=plain)
        images = n * clock.blocks + _ranking(study, config, panel, named) * (ranked + panel.sizes.get("twin", 0))
        if not config.chunk:
            variants = study.variants(store, config, clock.design, panel.attrs, n, clock)
            images += sum(one.images for one in study.asked(variants, config))
        if config.figure:
            edited, held = [len(its or range(units)) for its in named.values()], len(study.exact_held(config))
            images += expected_images(study.runner, edited, len(study.objects), units, config.ranking_latents, held)
        picture = 3 * math.prod(study.runner.image_size)
        disk = _size(store) + each * (n - 1 - count)
        # The relation keeps the images on which units are most active, and the report shows them.
        disk += 2 * picture * config.ranking_latents * ranked
        disk += len(named) * (16 * picture + DRAWN) * config.figure
        judged = sum(number < JUDGED for number in config.numbers()) * clock.blocks
        seconds = (judged * clock.seconds + (images - judged) * plain.seconds) / (count * clock.blocks) + after
        return Plan(
            arms=panel.sizes["arm"],
            rows=n * panel.sizes["target"] * panel.sizes["arm"],
            images=images,
            seconds=seconds,
            disk=disk,
            device=str(study.device),
        )


def _ranking(study: Study, config: StudyConfig, panel: xr.Dataset, targets: Collection[str]) -> int:
    """About how many images the ranking takes, or as much time as so many do; `panel` is of some latents of the study."""
    exact = config.ranking_latents * (study.runner.units + 2)
    if config.ranking == "screened":
        seen = panel["pixels"].sel(arm="reference").isel(target=0, drop=True) > 0
        passes = float(seen.sel(object=list(study.objects)).sum("object").mean())
        first = config.ranking_latents * (1 + passes) * DIFFERENTIATED
        return round(2 * config.ranking_latents + first + SETTLED * config.ranking_latents * study.runner.units)
    learned = len(targets) * STEPS * BATCH * 2 * DIFFERENTIATED if config.ranking == "optimized" else 0
    return round(exact + learned)


class _Clock(Local):
    """Measures in this process, and how long that and what is done with the measurements takes, once there is a worker."""

    seconds = 0.0
    blocks = 0  # images per latent
    design: Design

    def map(self, make: Callable[[], Worker], chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Measured | Failed]]:
        worker = make()
        self.design, self.blocks = worker.design, worker.design.images
        start = time.perf_counter()
        yield from super().map(lambda: worker, chunks)
        self.seconds = time.perf_counter() - start


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
