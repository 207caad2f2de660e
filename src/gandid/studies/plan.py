"""What a study will cost, from a short calibration run of the same study."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gandid.studies.config import StudyConfig
from gandid.studies.executors import Chunk, Failed, Local, Measured
from gandid.studies.folder import open_panel
from gandid.studies.study import Study
from gandid.studies.worker import Worker

RANKED = 2  # latents of the calibration's ranking
CHUNKS = 2  # of latents that the calibration measures


@dataclass(frozen=True)
class Plan:
    """The size of a study and what it will take on one worker."""

    arms: int
    """Regimes per target, the reference among them."""
    rows: int
    """Rows of the panel: latents times targets times arms."""
    images: int
    """Images that are made: arms that are one and the same are made once, and the ranking is counted in."""
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


def plan(study: Study, config: StudyConfig, run: Callable[..., Any], finish: Callable[[Path], Any]) -> Plan:
    """Estimate what a study takes by running a little of it: some latents of the ranking, two chunks of the arms.

    Parameters
    ----------
    study : Study
    config : StudyConfig
        What would be run.
    run : callable
        Runs a configuration of the study: `run(config, store=Path, executor=Executor)`.
    finish : callable
        Does what follows a run, given its folder: its report.
    """
    n, ranked = len(config.numbers()), study.ranks(config)
    small = config.model_copy(update={"ranking_latents": RANKED, "chunk": None})
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "run"
        # The first pass through anything is slower than the others.
        run(small.model_copy(update={"latents": 1}), store=store, executor=Local())
        ranking = _timed(lambda: study.relate(RANKED)) / RANKED if ranked else 0.0
        panel = open_panel(store)
        chunk = study.chunk_length(panel, n)
        count, clock = min(CHUNKS * chunk, max(n - 1, 1)), _Clock()
        before = _size(store / "panel.zarr")
        whole = _timed(lambda: run(small.model_copy(update={"latents": 1 + count}), store=store, executor=clock))
        each = (_size(store / "panel.zarr") - before) / count
        after = whole - clock.seconds + _timed(lambda: finish(store))
        images = n * clock.blocks + (config.ranking_latents * (study.runner.units + 2) if ranked else 0)
        return Plan(
            arms=panel.sizes["arm"],
            rows=n * panel.sizes["target"] * panel.sizes["arm"],
            images=images,
            seconds=ranking * config.ranking_latents + clock.seconds / count * n + after,
            disk=_size(store) + each * (n - 1 - count),
            device=str(study.device),
        )


class _Clock(Local):
    """Measures in this process, and how long that and what is done with the measurements takes."""

    seconds = 0.0
    blocks = 0  # images per latent

    def map(self, make: Callable[[], Worker], chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Measured | Failed]]:
        def noted() -> Worker:
            worker = make()
            self.blocks = len(worker.design.distinct())
            return worker

        start = time.perf_counter()
        yield from super().map(noted, chunks)
        self.seconds = time.perf_counter() - start


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
