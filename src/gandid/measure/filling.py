"""What of a panel is missing, and filling it: the one way in which a study begins, goes on after a kill, and is extended."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence

from gandid.errors import GandidError
from gandid.latents import chunked
from gandid.measure.executors import Executor, Failed
from gandid.measure.experiment import Experiment
from gandid.measure.worker import COUNTED, LATENTS_TOGETHER, Rows, Setting, Task, joined
from gandid.panel.store import PanelStore
from gandid.panel.table import SECOND_LATENTS

LATENTS_KEPT = 16  # at least so many of the study are measured at a time; so many of other arms
MOST_CHUNKS = 256  # a study is measured in about so many
BETWEEN = 2.0  # seconds from one write to the panel to the next: each keeps Zarr busy for some hundredths of one


def chunk_length(batch: int, latents: int) -> int:
    """Latents of the study's own arms that are measured at a time: whole batches, few of them in a small study."""
    kept = min(max(latents // MOST_CHUNKS, LATENTS_KEPT), LATENTS_TOGETHER)
    return batch * -(-kept // batch)


def missing_latents(panel: PanelStore, numbers: Sequence[int], batch: int, segmenters: int) -> list[Task]:
    """What is to be measured so that the study's own arms have these latents; of a part of a study, `numbers` begin later."""
    there = set(panel.latents)
    left = [number for number in numbers if number not in there]
    tasks, start = [], len(panel.latents)
    together = bool((panel.measured[1:] == start).any(axis=1).all())  # else the other segmenters are to catch up first
    for chunk in chunked(left, chunk_length(batch, len(numbers))):
        seconds = min(max(SECOND_LATENTS - numbers[0] - start, 0), len(chunk)) if together else 0
        tasks.append(Task(0, chunk, start, tuple(range(segmenters if seconds else 1)), seconds))
        start += len(chunk)
    return tasks


def missing_arms(panel: PanelStore, experiment: Experiment, segmenters: int) -> list[Task]:
    """What is to be measured of the other arms, and by other segmenters, on the latents that the study has."""
    tasks = []
    reference = panel.arms.index("reference")
    wanted = [(0, range(s, s + 1), reference, SECOND_LATENTS) for s in range(1, segmenters)]
    for b, block in enumerate(experiment.blocks[1:], start=1):
        arm = panel.arms.index(block.arms[0].name(experiment.dose))
        together = block.seconded and len(set(panel.measured[:segmenters, arm])) == 1
        wanted.append((b, range(segmenters if together else 1), arm, block.latents))
        if block.seconded and not together:
            wanted += [(b, range(s, s + 1), arm, SECOND_LATENTS) for s in range(1, segmenters)]
    for b, some, arm, latents in wanted:
        rows = range(int(panel.measured[some[0], arm]), min(latents or len(panel.latents), len(panel.latents)))
        for chunk in chunked(rows, LATENTS_KEPT):
            numbers = tuple(panel.latents[row] for row in chunk)
            seconds = max(min(len(chunk), SECOND_LATENTS - chunk[0]), 0)
            tasks.append(Task(b, numbers, chunk[0], tuple(some)[: None if seconds else 1], seconds))
    return tasks


def fill(
    panel: PanelStore,
    experiment: Experiment,
    tasks: Sequence[Task],
    executor: Executor,
    setting: Setting,
    advance: Callable[[int], None],
) -> None:
    """Measure tasks and write what they give; `advance` is called with the number of images made since its last call.

    Raises
    ------
    GandidError
        If no latent could be measured at all, or some arms could not be measured on all their latents. Latents of the study that
        could not be measured are left out, with a warning; the same call tries them again.
    """
    reason, broken = "", set()
    waiting, written = list[tuple[Task, Rows]](), 0.0

    def write() -> None:
        nonlocal written
        (first, _), rows = waiting[0], joined([rows for _, rows in waiting])
        waiting.clear()
        start = first.start
        if _appends(first):
            start = len(panel.latents)
        else:
            rows = {name: rows[name] for name in (*COUNTED, "features") if name in rows}
        arms = [arm.name(experiment.dose) for arm in experiment.blocks[first.block].arms]
        panel.write(arms, first.segmenters, start, rows)
        written = time.monotonic()

    try:
        for task, rows in executor.map(setting, tasks):
            if isinstance(rows, Failed):
                reason = rows.reason
                if _appends(task):
                    message = f"latents {task.numbers[0]} to {task.numbers[-1]} could not be measured: {reason}"
                    warnings.warn(f"{message}; the same call tries them again", stacklevel=3)
                else:
                    broken.add((task.block, task.segmenters))
            elif (task.block, task.segmenters) not in broken:
                if waiting and not _follows(task, rows, *waiting[-1]):
                    write()
                waiting.append((task, rows))
                if time.monotonic() - written > BETWEEN:
                    write()
                advance(round(len(task.numbers) * experiment.images(experiment.blocks[task.block])))
    finally:
        if waiting:
            write()
    if not panel.latents:
        raise GandidError(f"no latent could be measured: {reason}")
    if broken:
        raise GandidError(f"some latents could not be measured: {reason}; the same call tries them again")


def _appends(task: Task) -> bool:
    """Whether a task is of latents that the panel has not."""
    return task.block == 0 and 0 in task.segmenters


def _follows(task: Task, rows: Rows, before: Task, rows_before: Rows) -> bool:
    """Whether what a task gave can be written together with what the one before it gave."""
    same = (task.block, task.segmenters) == (before.block, before.segmenters) and rows.keys() == rows_before.keys()
    return same and (_appends(task) or task.start == before.start + len(before.numbers))
