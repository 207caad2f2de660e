"""A study's memory does not grow with its latents."""

import os
import re
import subprocess
import sys

import pytest

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


@pytest.mark.slow
def test_a_dry_run_tells_the_peak_of_memory(tmp_path):
    told, taken = (
        subprocess.run(
            [sys.executable, "-c", RUN, "run", "--latents", "200", "--target", "rug", "--out", "run", *more],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=True,
        ).stdout
        for more in (["--dry-run"], [])
    )
    gibibytes = float(re.search(r"memory  about ([\d.]+) GiB", told)[1])
    assert gibibytes * 2**30 == pytest.approx(int(taken.split()[-1]), rel=0.2)
