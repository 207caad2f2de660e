"""How long the effects of a very large panel take, and how much memory.

    python benchmarks/effects_at_scale.py                      # a million latents, 20 targets, 40 classes: the bar
    python benchmarks/effects_at_scale.py --latents 100000

The panel is drawn at random and written as a study writes it (some 6 GB for a million latents, removed afterwards). It looks
like one of 256 px scenes: a few of the classes are in each image; every edited arm moves the borders of what is there by some
pixels, live and held alike; where the target is, part of it turns into background and seldom into a class that goes with it;
now and then a class appears. All variables of a study on a network with nine sites are there. Effects are computed in a process
of their own, whose peak memory is measured; so are those of 1,000 and of 20,000 latents.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xarray as xr

import gandid
from gandid.panel.schema import FEATURED, FEATURES, Classes, empty_panel
from gandid.panel.store import PanelStore, read_panel
from gandid.panel.table import study_block

SIZE = 256 * 256
ARMS = ("reference", "live", "capped:first", "capped:all")
GROUNDS = ("wall", "floor", "ceiling")
SITES, QUANTILES = 9, 3
AT_ONCE = 1024
CHECKED = 8


def empty(targets: int, classes: int) -> xr.Dataset:
    """A panel without latents."""
    names = (*GROUNDS, "unknown", *(f"object {i}" for i in range(classes - len(GROUNDS) - 1)))
    return empty_panel(
        [study_block([("capped", "first"), ("capped", "all")])],
        targets=names[4 : 4 + targets],
        segmenters={"random": Classes(names, GROUNDS)},
        sites={f"layer{i + 5}.norm": True for i in range(SITES)},
        networks=["own"],
        units=np.zeros((1, 1, targets, 1), np.int32),
        values=None,
        energy=np.ones((1, targets), np.float32),
        attrs={"image_pixels": SIZE, "generator": "random", "layer": "layer4", "ablation": "zero", "alpha": 1.0},
        without=["uncertain"],
    )


def draw(first: int, n: int, targets: int, classes: int) -> dict[str, np.ndarray]:
    """The panel's variables for the latents from `first` on."""
    rng = np.random.default_rng([7, first])
    scene = _scenes(rng, n, classes)
    shape = (n, targets, len(ARMS), classes)
    inside = np.zeros(shape, np.int32)
    outside = np.broadcast_to(scene[:, None, None], shape).copy()
    for t in range(targets):
        hole = scene[:, 4 + t]
        inside[:, t, 0, 4 + t] = hole
        outside[:, t, :, 4 + t] = 0
        live = rng.beta(4, 2, n)
        lost = np.clip([live, live + rng.normal(0.02, 0.03, n), live + rng.normal(0.10, 0.06, n)], 0, 1)
        friend = (rng.random(n) < 0.3) * np.clip([[0.10], [0.08], [0.03]] + rng.normal(0, 0.02, (3, n)), 0, 1)  # noqa: RUF005
        for a in range(3):
            gone = np.rint(hole * lost[a]).astype(np.int32)
            to_friend = np.rint(gone * friend[a]).astype(np.int32)
            inside[:, t, 1 + a, 4 + t] = hole - gone
            inside[:, t, 1 + a, 4 + (t + 3) % (classes - 4)] += to_friend
            inside[:, t, 1 + a, 0] += gone - to_friend
    # Borders move with the edit, much the same in all edited arms; now and then a class appears.
    border = np.sqrt(outside[:, :, :1], dtype=np.float32)
    moved = 0.3 * border * rng.standard_normal((n, targets, 1, classes), np.float32)
    moved = moved + 0.1 * border * rng.standard_normal((n, targets, 3, classes), np.float32)
    outside[:, :, 1:] += np.rint(moved).astype(np.int32)
    np.maximum(outside, 0, out=outside)
    new = rng.integers(0, n * targets * 3 * classes, n * targets * 3 * classes // 2000)
    at = np.unravel_index(new, (n, targets, 3, classes))
    outside[at[0], at[1], 1 + at[2], at[3]] += rng.integers(100, 1000, len(new)).astype(np.int32)
    # The wall is what is left.
    outside[..., 0] = 0
    outside[..., 0] = np.maximum(SIZE - outside.sum(-1) - inside.sum(-1), 0)
    strain = np.zeros((n, targets, len(ARMS), SITES, QUANTILES), np.float32)
    strain[:, :, 2, 0] = rng.normal(0, 0.05, strain[:, :, 2, 0].shape)
    strain[:, :, 3] = rng.normal(0, 0.08, strain[:, :, 3].shape)
    number = np.arange(first, first + n)
    present = scene[:, 4 : 4 + targets] > 0
    nothing = np.float32(np.nan)
    rows = {
        "latent": number,
        "pixels": (outside + inside)[None],
        "inside": inside[None],
        "shared": np.zeros((1, n, targets, len(ARMS)), np.int32),
        "strain": strain,
        "range": rng.gamma(20, 0.02, (n, SITES)).astype(np.float32),
        "rescaling": rng.gamma(2, 0.05, (n, targets, len(ARMS), SITES)).astype(np.float32),
        "gain": np.where(present, rng.normal(1.3, 0.05, present.shape), nothing).astype(np.float32),
        "gain_outside": rng.normal(1.04, 0.01, present.shape).astype(np.float32),
        "gain_error": (1e-6 * rng.random(present.shape)).astype(np.float32),
        "placebo_gap": np.where((number < CHECKED)[:, None], np.zeros(present.shape), nothing).astype(np.float32),
        "baseline_gap": np.where((number < CHECKED)[:, None], np.full((n, len(ARMS)), 1e-6), nothing).astype(
            np.float32
        ),
    }
    if first < FEATURED:
        rows["features"] = rng.normal(size=(n, targets, len(ARMS), FEATURES)).astype(np.float16)
        rows["features"][number >= FEATURED] = np.nan
    return rows


def _scenes(rng: np.random.Generator, n: int, classes: int) -> np.ndarray:
    """Pixels of each class in unedited images, (n, classes): objects are the rarer the later they come."""
    objects = classes - 4
    chance = np.concatenate([[1.0, 0.95, 0.5, 0.8], 0.6 / np.arange(1, objects + 1) ** 0.8])
    area = np.exp(rng.normal(np.log(0.02 * SIZE), 1.0, (n, classes))).clip(50, 0.15 * SIZE)
    area[:, 3] /= 20
    scene = np.rint(area * (rng.random((n, classes)) < chance)).astype(np.int32)
    scene[:, 0] = 0
    scene = np.where(np.cumsum(scene, 1) <= 0.9 * SIZE, scene, 0)
    scene[:, 0] = SIZE - scene.sum(1)
    return scene


def write(path: Path, latents: int, targets: int, classes: int) -> None:
    """Write a panel as a study does, some latents at a time."""
    store = PanelStore.create(path, empty(targets, classes))
    with ThreadPoolExecutor(2) as pool:
        starts = range(0, latents, AT_ONCE)
        for some in range(0, len(starts), 4):
            drawn = [pool.submit(draw, s, min(AT_ONCE, latents - s), targets, classes) for s in starts[some : some + 4]]
            for first, one in zip(starts[some : some + 4], drawn, strict=True):
                store.write(ARMS, [0], first, one.result())


def measure(path: Path) -> dict[str, float]:
    """Estimate the effects of a panel on disk, in this process."""
    start, cpu = time.perf_counter(), time.process_time()
    effects = gandid.did(read_panel(path))
    frame = effects.main
    return {
        "latents": effects.latents,
        "estimates": len(frame),
        "shown": int((frame["q"] < 0.05).sum()),
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(time.process_time() - cpu, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def report(latents: int, targets: int, classes: int, folder: Path) -> dict[str, float]:
    """Write a panel, measure it in a process of its own, and remove it."""
    path = folder / f"{latents}.zarr"
    start = time.perf_counter()
    write(path, latents, targets, classes)
    disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    print(f"{latents:,} latents written in {time.perf_counter() - start:.0f} s, {disk / 1e9:.2f} GB", flush=True)
    found = subprocess.run([sys.executable, __file__, "--measure", path], check=True, capture_output=True, text=True)
    shutil.rmtree(path)
    print(found.stdout, end="", flush=True)
    return json.loads(found.stdout)


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=1_000_000)
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--classes", type=int, default=40)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(asked.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        small, large, huge = (
            report(latents, asked.targets, asked.classes, Path(folder)) for latents in (1_000, 20_000, asked.latents)
        )
    print(f"peak memory of 20,000 latents over that of 1,000: {large['peak_mib'] / small['peak_mib']:.3f} (bar: 1.10)")
    print(f"{huge['latents']:,} latents: {huge['seconds']} s (bar: 60), {huge['peak_mib'] / 1024:.2f} GiB (bar: 4)")


if __name__ == "__main__":
    main()
