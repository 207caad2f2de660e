"""How a study speeds up with workers, and what the one writer can take.

    python benchmarks/scale.py [--latents 200]

Runs the arms of one study of the embedded rooms in this process, on a Ray cluster of one core with one worker, and on one of
two cores with two workers, side by side in one run, and compares the panels. Then measures how the processor time of arms grows with
their latents and their number, and that of the exact ranking with the units, as slopes on logarithmic axes: 1 is linear. At last it
writes a panel of the size of a study of ADE20K's classes and prints how many latents per second the writer takes. `--latents 0` leaves
the workers out.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from limit import seconds, worker

import gandid
from gandid.measure.executors import Local, Ray
from gandid.measure.worker import Task, Worker
from gandid.panel.schema import Classes, empty_panel
from gandid.panel.store import PanelStore
from gandid.panel.table import study_block
from gandid.ranking.journal import Journal
from gandid.ranking.rankings import Ablations, area

UNITS = {"painting": list(range(20)), "rug": list(range(20, 40))}


class Timed:
    """An executor, with the time from its first chunk to its last: what starts a worker comes before."""

    def __init__(self, executor):
        self.executor, self.speed = executor, 0.0

    def map(self, setting, tasks):
        """See `gandid.measure.executors.Executor`."""
        latents, start = 0, 0.0
        for i, (task, rows) in enumerate(self.executor.map(setting, tasks)):
            yield task, rows
            if i == 1:
                start = time.perf_counter()
            elif i > 1:
                latents += len(task.numbers)
        self.speed = latents / (time.perf_counter() - start)


def arms(latents: int) -> dict[str, tuple[float, xr.Dataset]]:
    """Latents per second and the panel, by executor."""
    results = {}

    def run(name, executor, threads=1, workers=1):
        torch.set_num_threads(threads)
        study = gandid.Study(gandid.load_generator("rooms"), gandid.load_segmenter("rooms"), seed=0)
        study.workers, timed = workers, Timed(executor)
        panel = study.run(UNITS, control=["capped", "frozen"], latents=latents, executor=timed)
        results[name] = timed.speed, panel

    run("this process, one thread", Local())
    run("two threads on each batch", Local(), threads=2)
    run("two threads, each on its own", Local(), threads=2, workers=2)
    torch.set_num_threads(1)
    import ray

    for cores in (1, 2):
        ray.init("local", num_cpus=cores, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
        run(f"{cores} Ray worker{'s' * (cores - 1)}, one core each", Ray(workers=cores))
        ray.shutdown()
    return results


def slopes(study) -> dict[str, tuple[dict[int, float], float]]:
    """Seconds of processor time by the size of what is measured, and the slope of their logarithms; least of three."""
    torch.set_num_threads(1)
    first, objects = 128, study.objects  # before it, latents are measured in more ways

    def ready(targets: int) -> Worker:
        return worker(study, {name: list(range(20)) for name in objects[:targets]}, 1)

    def arms(one, latents: int) -> None:
        one.measure(Task(0, tuple(range(first, first + latents)), 0, (0,), 0))

    few, workers = ready(1), {targets: ready(targets) for targets in (1, 2, 4, 6)}
    z, classes = study.latents(range(4), "ranking"), len(study.segmenter.classes)
    before = area(study.segmenter(study.generator(z)), classes).numpy()
    sweep = Ablations([(study.runner, study.segmenter)], z, before, study.rows, Journal(None), lambda done: None)

    def units(count: int) -> None:
        latent, unit = np.divmod(np.arange(len(z) * count), count)
        sweep.drops(latent, unit)

    images = {one.experiment.images(one.experiment.study): one for one in workers.values()}
    asked = {
        "latents": ((25, 50, 100, 200), lambda size: arms(few, size)),
        "row blocks": (tuple(images), lambda size: arms(images[size], 24)),
        "units": ((16, 32, 64, 128), units),
    }
    found = {}
    for name, (sizes, work) in asked.items():
        took = {size: min(seconds(lambda size=size, work=work: work(size)) for _ in range(3)) for size in sizes}
        found[name] = took, float(np.polyfit(np.log(list(took)), np.log(list(took.values())), 1)[0])
    return found


def writer(targets: int = 20, classes: int = 150, latents: int = 1024, chunk: int = 256) -> float:
    """Latents per second that can be appended to a panel with four arms."""
    rng = np.random.default_rng(0)
    block = study_block([("capped", "first"), ("capped", "all")])
    names = [arm.name() for arm in block.arms]
    empty = empty_panel(
        [block],
        targets=[f"target {i}" for i in range(targets)],
        segmenters={"invented": Classes(tuple(f"class {i}" for i in range(classes)), ())},
        sites={f"site {i}": True for i in range(10)},
        networks=["own"],
        units=np.zeros((1, 1, targets, 20), np.int32),
        values=np.zeros((1, 1, targets, 20), np.float32),
        energy=np.ones((1, targets), np.float32),
        attrs={"alpha": 1.0},
    )
    shape = (targets, len(names), classes)
    present = rng.random(shape) < 0.1
    with tempfile.TemporaryDirectory() as folder:
        store, took = PanelStore.create(Path(folder) / "panel.zarr", empty), 0.0
        for start in range(0, latents, chunk):
            counts = [np.where(present, rng.integers(0, 9000, (1, chunk, *shape)), 0) for _ in range(2)]
            rows = {name: one.astype(np.int32) for name, one in zip(("pixels", "inside"), counts, strict=True)}
            rows |= {
                "shared": np.zeros((1, chunk, targets, len(names)), np.int32),
                "latent": np.arange(start, start + chunk),
            }
            sizes = {
                "strain": (targets, len(names), 10, 3),
                "rescaling": (targets, len(names), 10),
                "range": (10,),
                "gain": (targets,),
                "gain_outside": (targets,),
                "gain_error": (targets,),
                "baseline_gap": (len(names),),
                "placebo_gap": (targets,),
            }
            rows |= {name: rng.normal(size=(chunk, *size)).astype(np.float32) for name, size in sizes.items()}
            begin = time.perf_counter()
            store.write(names, (0,), start, rows)
            took += time.perf_counter() - begin
    return latents / took


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=200)
    latents = parser.parse_args().latents
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    study = gandid.Study(gandid.load_generator("rooms"), gandid.load_segmenter("rooms"))
    for name, (took, slope) in slopes(study).items():
        print(f"{name:<10} slope {slope:.2f}:", ", ".join(f"{size}: {each:.2f} s" for size, each in took.items()))
    results = arms(latents) if latents else {}
    for name, (speed, panel) in results.items():
        base, (_, first) = results["1 Ray worker, one core each"][0], next(iter(results.values()))
        same = "identical" if panel.identical(first) else "not identical"
        print(f"{name:<34} {speed:6.2f} latents per second, {speed / base:.2f} of one Ray worker; panel {same}")
    print(f"writer: {writer():,.0f} latents per second (20 targets, 4 arms, 150 classes, in chunks of 256)")


if __name__ == "__main__":
    main()
