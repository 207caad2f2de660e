"""How near gandid comes to what the bare networks can do, and how far from the loop that one would write by hand.

    python benchmarks/limit.py [--size 64] [--latents 16] [--repeats 3] [--threads 1]

Three ways to the same labels, in turn, of the same latents and weights: the *loop* of public code, one hooked pass of the whole
generator and one segmentation for each unit or arm, 25 latents at a time or all that there are; *gandid*, with all that it
measures besides; and the *networks*, the rest of the generator and the segmenter on so many rows without any bookkeeping, at the
best of some numbers of rows. The loop has a process of its own, with the memory that a process has by itself, and its generator
doubles maps and then convolves, as that of GAN Dissection does. Prints images per second of processor time, by medians, and
ratios. At 64 px the networks are the embedded rooms; at 256 px they have the shapes of the LSUN models and of SegFormer-B0, and their
weights are random: `--size 256 --latents 1 --repeats 1` takes a few minutes.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from real_size import make

import gandid
from gandid.errors import UsageError
from gandid.generators.pggan import EqualConv2d
from gandid.latents import latents
from gandid.measure.diagnosis import CHECKED
from gandid.measure.worker import Task, Worker
from gandid.panel.schema import FEATURED
from gandid.ranking.journal import Journal
from gandid.ranking.rankings import Ablations, area

BATCH = 25  # latents that the loop takes together
ROWS = (4, 8, 16, 32, 64, 128)  # among which the networks' best is looked for
UNITS = 20


class Kept:
    """An executor that measures nothing, and keeps what a worker needs."""

    def map(self, setting, tasks):
        """See `gandid.measure.executors.Executor`."""
        self.setting = setting
        yield from ()


def worker(study, targets, n):
    """Of a study of `n` latents, what measures its arms."""
    kept = Kept()
    try:
        study.run(targets, latents=n, executor=kept)
    except UsageError:
        raise
    except gandid.GandidError:  # nothing was measured
        pass
    return Worker(kept.setting)


def convolve(layer, x, resample=None):
    """`EqualConv2d.forward` as public code has it: nearest neighbours, then a convolution; weights are scaled in every pass."""
    if resample == "up":
        x = F.interpolate(x, scale_factor=2)
    return F.conv2d(x, layer.weight * layer.scale, layer.bias, padding=layer.padding)


def loop(networks, layer, n):
    """Seconds per image of the public way: for each edit all layers, with a hook that zeroes units, a segmentation, and a count."""
    (generator, segmenter), edits = networks, [range(first, first + UNITS) for first in range(0, 4 * UNITS, UNITS)]
    z = latents(0, range(n), generator.latent_dim)

    def work():
        for units in edits:

            def zero(module, args, output, units=units):
                output[:, list(units)] = 0

            handle = generator.get_submodule(layer).register_forward_hook(zero)
            for part in z.split(BATCH):
                np.bincount(segmenter(generator(part)).numpy().ravel(), minlength=len(segmenter.classes))
            handle.remove()

    return seconds(work) / (n * len(edits))


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


def labelling(study, names):
    """Milliseconds of processor time per image that each of some segmenters takes, in turn."""
    segmenters = {name: gandid.load_segmenter(name) for name in names}
    with torch.inference_mode():
        images = study.generator(study.latents(range(64)))
    took = [{name: seconds(lambda one=one: one(images)) for name, one in segmenters.items()} for _ in range(20)]
    return {name: 1e3 * statistics.median(each[name] for each in took) / len(images) for name in names}


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
    return seconds(lambda: sweep.drops(latent, unit)) / len(unit)


def measured(study, targets, n):
    """Seconds per image of a study's own arms: of its first latents, whose images have features, and of later ones."""
    arms = worker(study, targets, n)
    images = arms.experiment.images(arms.experiment.study)
    arms.measure(Task(0, (0,), 0, (0,), 0))  # the first pass through anything is slower than the others
    # Before the first of them come the latents of the exact checks.
    starts = range(CHECKED, CHECKED + n), range(FEATURED, FEATURED + n)
    return [seconds(lambda some=some: arms.measure(Task(0, tuple(some), 0, (0,), 0))) / (n * images) for some in starts]


def loaded(size, folder):
    """The networks, the layer, and the units of some targets; those of real size are made in a folder, unless they are there."""
    if size == 64:
        networks = gandid.load_generator("rooms"), gandid.load_segmenter("rooms")
        names = [name for name in networks[1].classes if name not in (*networks[1].background, "unknown")]
        width = networks[0].channels[1]
        units = {name: tuple((UNITS * i + k) % width for k in range(UNITS)) for i, name in enumerate(names)}
        return networks, "layer4", units
    seen = folder / "seen"
    if not seen.is_file():
        seen.write_text("\n".join(make(folder)[:3]))
    segmenter = gandid.load_segmenter(folder / "segformer", background=())
    targets = {name: tuple(range(UNITS)) for name in seen.read_text().splitlines()}
    return (gandid.load_generator(folder / "generator.safetensors"), segmenter), "layer4", targets


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("size", 64), ("latents", 16), ("repeats", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)  # the folder: this is the loop's own process
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.loop:
        EqualConv2d.forward = convolve
        parts, layer, _ = loaded(asked.size, asked.loop)
        loop(parts, layer, 1)
        print(loop(parts, layer, asked.latents))
        return
    took = {name: [] for name in ("networks", "loop", "ranking", "measuring")}
    with tempfile.TemporaryDirectory() as folder:
        parts, layer, targets = loaded(asked.size, Path(folder))
        study = gandid.Study(*parts, layer=layer)
        again = [sys.executable, __file__, "--loop", folder, "--size", str(asked.size)]
        again += ["--latents", str(asked.latents), "--threads", str(asked.threads)]
        for _ in range(asked.repeats):
            took["networks"].append(networks(study, 128 if asked.size == 64 else 16))
            took["ranking"].append(ranked(study, asked.latents))
            took["measuring"].append(measured(study, targets, asked.latents))
            took["loop"].append(float(subprocess.run(again, check=True, capture_output=True, text=True).stdout))
    alone = {rows: statistics.median(each[rows] for each in took["networks"]) for rows in took["networks"][0]}
    rows, theirs = min(alone, key=alone.__getitem__), statistics.median(took["loop"])
    first, later = (statistics.median(each) for each in zip(*took["measuring"], strict=True))
    print("networks alone, images per second by rows:", ", ".join(f"{r}: {1 / s:.1f}" for r, s in alone.items()))
    print(f"the loop: {1 / theirs:.1f} images per second, {alone[rows] / theirs:.2f} of the networks at {rows} rows")
    if asked.size == 64:
        each = ", ".join(f"{name} {took:.2f}" for name, took in labelling(study, ("rooms", "rooms-dilated")).items())
        print(f"segmenters alone, milliseconds per image: {each}")
    ours = {
        "exact ablations": statistics.median(took["ranking"]),
        "arms": later,
        f"arms of the first {FEATURED}": first,
    }
    for what, each in ours.items():
        print(f"{what:<21} {1 / each:7.1f}: {theirs / each:5.2f} of the loop, {alone[rows] / each:.2f} of the networks")


if __name__ == "__main__":
    main()
