"""How near gandid comes to what the bare networks can do, and how far from the loop that one would write by hand.

    python benchmarks/limit.py [--size 64] [--latents 8] [--repeats 3] [--threads 1]

Three ways to the same labels, in turn, of the same latents and weights: the *loop*, one hooked pass of the whole generator and one
segmentation for each unit or arm, 25 latents at a time; *gandid*, with all that it measures besides; and the *networks*, the rest of
the generator and the segmenter on so many rows without any bookkeeping, at the best of some numbers of rows. Prints images per
second of processor time, by medians, and ratios. At 64 px the networks are the embedded rooms; at 256 px they have the shapes of the
LSUN models and of SegFormer-B0, and their weights are random.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from real_size import make

import gandid
from gandid.measure.diagnosis import CHECKED
from gandid.measure.worker import Task, Worker
from gandid.ranking.journal import Journal
from gandid.ranking.rankings import Ablations, area

BATCH = 25  # latents that the loop takes together
ROWS = (4, 8, 16, 32, 64, 128)  # among which the networks' best is looked for
UNITS = 20


class Taken:
    """An executor that measures nothing, and keeps what a worker needs."""

    def map(self, setting, tasks):
        """See `gandid.measure.executors.Executor`."""
        self.setting = setting
        yield from ()


def loop(study, z, edits, classes):
    """The public way: for each edit a pass of all layers with a hook that zeroes its units, a segmentation, and a count."""
    generator = study.generator
    for units in edits:

        def zero(module, args, output, units=units):
            output[:, list(units)] = 0

        handle = generator.get_submodule(study.layer).register_forward_hook(zero)
        for part in z.split(BATCH):
            np.bincount(study.segmenter(generator(part)).numpy().ravel(), minlength=classes)
        handle.remove()


def seconds(work):
    """Processor time of a piece of work."""
    start = time.process_time()
    with torch.inference_mode():
        work()
    return time.process_time() - start


def networks(study, most):
    """Seconds of processor time per image of suffix and segmenter alone, by rows at a time."""
    with torch.inference_mode():
        maps = study.generator.prefix(study.latents(range(most)), study.layer)

        def alone(rows):
            for part in maps.split(rows):
                study.segmenter(study.generator.suffix(part, study.layer))

        return {rows: seconds(lambda rows=rows: alone(rows)) / most for rows in ROWS if rows <= most}


def ranked(study, n):
    """Seconds per image of the exact ablations of some units on some latents."""
    z, units = (
        study.latents(range(n), "ranking"),
        min(study.runner.units, 128 if study.runner.image_size[0] < 128 else 8),
    )
    classes = len(study.segmenter.classes)
    with torch.inference_mode():
        before = area(study.segmenter(study.generator(z)), classes).numpy()
    sweep = Ablations([(study.runner, study.segmenter)], z, before, study.rows, Journal(None), lambda done: None)
    latent, unit = np.divmod(np.arange(n * units), units)
    ours = seconds(lambda: sweep.drops(latent, unit)) / len(unit)
    some = [(int(number),) for number in unit[: max(1, units // n)]]
    return ours, seconds(lambda: loop(study, z, some, classes)) / (len(some) * n)


def measured(study, targets, n):
    """Seconds per image of a study's own arms, by gandid and by the loop, which holds nothing."""
    taken = Taken()
    with contextlib.suppress(gandid.GandidError):  # nothing was measured
        study.run(targets, latents=n, executor=taken)
    worker, images = Worker(taken.setting), taken.setting.experiment.images(taken.setting.experiment.study)
    worker.measure(Task(0, (0,), 0, (0,), 0))  # the first pass through anything is slower than the others
    first = CHECKED  # before it come the latents of the exact checks
    ours = seconds(lambda: worker.measure(Task(0, tuple(range(first, first + n)), 0, (0,), 0))) / (n * images)
    z, edits = study.latents(range(min(n, BATCH))), list(targets.values())
    return ours, seconds(lambda: loop(study, z, edits, len(study.segmenter.classes))) / (len(z) * len(edits))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("size", 64), ("latents", 8), ("repeats", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.size == 64:
        study = gandid.Study(gandid.load_generator("rooms"), gandid.load_segmenter("rooms"))
        targets = {name: tuple(range(UNITS * i, UNITS * (i + 1))) for i, name in enumerate(study.objects)}
    else:
        with tempfile.TemporaryDirectory() as name:
            seen = make(Path(name))[:3]
            networks_of = gandid.load_generator(Path(name) / "generator.safetensors"), Path(name) / "segformer"
            study = gandid.Study(networks_of[0], gandid.load_segmenter(networks_of[1], background=()), layer="layer4")
        targets = {name: tuple(range(UNITS)) for name in seen}
    most = 128 if asked.size == 64 else 4
    took = {"networks": [], "ranking": [], "measuring": []}
    for _ in range(asked.repeats):
        took["networks"].append(networks(study, most))
        took["ranking"].append(ranked(study, asked.latents))
        took["measuring"].append(measured(study, targets, asked.latents))
    middle = {rows: statistics.median(each[rows] for each in took["networks"]) for rows in took["networks"][0]}
    rows = min(middle, key=middle.__getitem__)
    print("networks alone, images per second by rows:", ", ".join(f"{r}: {1 / s:.1f}" for r, s in middle.items()))
    for what in ("ranking", "measuring"):
        ours, theirs = (statistics.median(each) for each in zip(*took[what], strict=True))
        print(
            f"{what:<10} loop {1 / theirs:7.1f}, gandid {1 / ours:7.1f}, networks {1 / middle[rows]:7.1f}: "
            f"{theirs / ours:.2f} of the loop, {middle[rows] / ours:.2f} of the networks at {rows} rows"
        )


if __name__ == "__main__":
    main()
