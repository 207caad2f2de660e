"""What of a panel is missing, and filling it: the one way in which a study begins, goes on after a kill, and is extended."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from gandid.errors import GandidError
from gandid.latents import chunked
from gandid.measure.executors import Executor, Failed
from gandid.measure.experiment import Experiment
from gandid.measure.worker import COUNTED, LATENTS_TOGETHER, Setting, Task
from gandid.panel.store import PanelStore
from gandid.panel.table import SECOND_LATENTS

LATENTS_KEPT = 16  # at least so many of the study are measured between two writes to the panel; so many of other arms
MOST_CHUNKS = 256  # a study is written in about so many


def chunk_length(batch: int, latents: int) -> int:
    """Latents of the study's own arms between two writes to its panel: whole batches, few of them in a small study."""
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
    for task, rows in executor.map(setting, tasks):
        block = experiment.blocks[task.block]
        appended = task.block == 0 and 0 in task.segmenters
        if isinstance(rows, Failed):
            reason = rows.reason
            if appended:
                message = f"latents {task.numbers[0]} to {task.numbers[-1]} could not be measured: {reason}"
                warnings.warn(f"{message}; the same call tries them again", stacklevel=3)
            else:
                broken.add((task.block, task.segmenters))
        elif (task.block, task.segmenters) not in broken:
            start = len(panel.latents) if appended else task.start
            if not appended:
                rows = {name: rows[name] for name in (*COUNTED, "features") if name in rows}
            panel.write([arm.name(experiment.dose) for arm in block.arms], task.segmenters, start, rows)
            advance(round(len(task.numbers) * experiment.images(block)))
    if not panel.latents:
        raise GandidError(f"no latent could be measured: {reason}")
    if broken:
        raise GandidError(f"some latents could not be measured: {reason}; the same call tries them again")
