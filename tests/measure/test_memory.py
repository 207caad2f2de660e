"""A study's memory does not grow with its latents."""

import os
import re
import subprocess
import sys

import pytest
import torch

from gandid.generators import Generator
from gandid.generators.storage import save_generator

PEAK = """
import resource, sys
from pathlib import Path
sys.path[:0] = {path!r}
from planted import PlantedGenerator, PlantedSegmenter
from gandid.report import build
from gandid.study import Study
study = Study(PlantedGenerator(), PlantedSegmenter(), layer="paint", seed=5, memory=2**30)
store, n = sys.argv[1], int(sys.argv[2])
panel = study.run({{"a": [0], "b": [1]}}, control=["capped", "frozen"], latents=n, store=store)
build(Path(store))
assert panel.sizes["latent"] == n
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_twenty_times_the_latents_take_the_same_memory(tmp_path):
    peaks = []
    for n in (1_000, 20_000):
        done = subprocess.run(
            [sys.executable, "-c", PEAK.format(path=sys.path), str(tmp_path / str(n)), str(n)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.1 * peaks[0]


RUN = """
import resource, sys
from gandid.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def rooms(folder):
    return ["--latents", "200"]


def large(channels):
    """A run of a generator of so many channels at 4, 8, 16, ... pixels, with random weights."""

    def written(folder):
        torch.manual_seed(0)
        save_generator(Generator(channels, 32).eval(), folder / "generator.safetensors")
        run = [
            "--generator",
            "generator.safetensors",
            "--segmenter",
            "rooms",
            "--layer",
            "layer4",
            "--control",
            "capped",
        ]
        return [*run, "--latents", "6", "--hold", "first", "--memory", "1GiB"]

    return written


@pytest.mark.slow
@pytest.mark.parametrize("asked", [rooms, large((64, 64, 64, 32, 32, 32, 32))], ids=[64, 256])
def test_a_dry_run_tells_the_peak_of_memory(tmp_path, asked):
    target = ["--target", "rug" if asked is rooms else "rug=0,1,2,3"]
    told, taken = (
        subprocess.run(
            [sys.executable, "-c", RUN, "run", *asked(tmp_path), *target, "--out", "run", *more],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=True,
        ).stdout
        for more in (["--dry-run"], [])
    )
    gibibytes = float(re.search(r"memory  about ([\d.]+) GiB", told)[1])
    assert gibibytes * 2**30 == pytest.approx(int(taken.split()[-1]), rel=0.2)
