"""What the tests of the page share: the embedded networks on a layer of few units, and the page as a real process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

gradio = pytest.importorskip("gradio")

from gandid import load_generator, load_segmenter  # noqa: E402
from gandid.app.models import Model, Ranked  # noqa: E402

LAYER = "layer8"  # of 32 units: ranked within seconds
COMMAND = [sys.executable, "-c", "from gandid.cli import main; main()"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(load_generator("rooms"), load_segmenter("rooms"), tmp_path_factory.mktemp("cache"), LAYER)
    yield model
    model.rankings.close()


@pytest.fixture(scope="session")
def ranked(model: Model) -> Ranked:
    """The first ranking of the layer; not a later one, for the ranking goes on meanwhile."""
    ranked = model.rankings.wait(LAYER, 4, timeout=120)
    assert ranked.relation is not None
    return ranked


@dataclass
class Served:
    """The page of `gandid app`, as a process."""

    process: subprocess.Popen[str]
    address: str
    runs: Path


def serve(runs: Path, *options: str) -> Served:
    """Start `gandid app` on a free port and wait until it answers."""
    # Wide enough that no line is wrapped; a quick shutdown is part of what is tested.
    command = [*COMMAND, "app", "--runs", str(runs), "--no-browser", "--device", "cpu", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"})
    assert process.stdout is not None
    for line in process.stdout:
        if "http://" in line:
            return Served(process, line.split()[4], runs)
    raise AssertionError(f"gandid app ended with status {process.wait()}")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = serve(tmp_path_factory.mktemp("runs"), "--layer", LAYER)
    yield served
    served.process.terminate()
    served.process.wait(20)
