"""The training: killed and resumed it ends with the bits of one that was not; what it leaves is whole or absent."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gandid.errors import UsageError
from gandid.files import load_checkpoint, save_checkpoint
from gandid.generators import load_generator
from lab import rooms
from lab.generator import Phase, Schedule, copying, train

ROOT = Path(__file__).parents[2]
TINY = Schedule(
    channels=(8, 8, 8),
    batch=8,
    phases=(
        Phase(8, 48, 5e-3, cool=24),
        Phase(16, 64, 4e-3, fade=32, keep=(40,)),
        Phase(16, 64, 4e-3, keep=(32,)),
    ),
)

# Trains TINY, saving at every step; in the middle of its 12th save it tells so and hangs.
HANGS = """
import sys, time, torch
from pathlib import Path
from lab import generator
from tests_of_lab import TINY
torch.set_num_threads(1)
save, calls = torch.save, 0

def hang(state, path):
    global calls
    calls += 1
    save(state, path)
    if calls == 12:
        Path(path).write_bytes(Path(path).read_bytes()[:1000])
        print("hanging", flush=True)
        time.sleep(600)

torch.save = hang
generator.train(Path(sys.argv[1]), TINY, save_seconds=0, sample_every=7)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    train(out, TINY, sample_every=7)
    return out


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bits(whole, tmp_path):
    out = tmp_path / "killed"
    script = HANGS.replace("tests_of_lab", Path(__file__).stem)
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    try:
        assert child.stdout is not None
        assert any("hanging" in line for line in child.stdout)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert load_checkpoint(out / "checkpoint.pt")["done"] == 11  # the one before, whole
    train(out, TINY, sample_every=7)
    assert same(load_checkpoint(out / "checkpoint.pt"), load_checkpoint(whole / "checkpoint.pt"))
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}  # no half file is left
    for path in out.glob("*.safetensors"):
        assert path.read_bytes() == (whole / path.name).read_bytes()


def test_what_a_training_leaves(whole):
    generator = load_generator(whole / "generator.safetensors")
    assert generator.resolution == 16 and generator.channels == (8, 8, 8) and generator.pixel_norm
    assert generator(rooms.latents(2)).shape == (2, 3, 16, 16)
    kept = [path.name for path in sorted(whole.glob("generator-*.safetensors"))]
    assert kept == ["generator-1-0000040.safetensors", "generator-2-0000032.safetensors"]
    lines = (whole / "log.csv").read_text().splitlines()
    assert len(lines) == 1 + 5  # every 7 of 22 steps, and at the ends of the phases
    assert all(line.count(",") == lines[0].count(",") for line in lines)


def test_a_finished_training_is_left_as_it_is(whole):
    before = (whole / "checkpoint.pt").stat().st_mtime_ns
    train(whole, TINY)
    assert (whole / "checkpoint.pt").stat().st_mtime_ns == before


def test_what_is_ahead_may_change_and_what_is_behind_may_not(whole, tmp_path):
    state = load_checkpoint(whole / "checkpoint.pt")
    save_checkpoint(tmp_path / "checkpoint.pt", state)
    longer = replace(TINY, phases=(*TINY.phases[:2], replace(TINY.phases[2], images=80)))
    train(tmp_path, longer)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["done"] == state["done"] + 2
    for other in (TINY, replace(longer, seed=1), replace(longer, phases=longer.phases[1:])):
        with pytest.raises(UsageError, match="another schedule"):
            train(tmp_path, other)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(UsageError, match="not a checkpoint"):
        train(tmp_path, TINY)


def test_a_checkpoint_that_fails_leaves_the_one_before(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"done": 1})
    with pytest.raises(AttributeError):
        save_checkpoint(path, {"done": lambda: None})  # cannot be pickled
    assert load_checkpoint(path) == {"done": 1} and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_copying_is_nothing_for_a_copy_and_more_for_a_blur():
    scenes = rooms.pictures(rooms.latents(4), 32)
    assert copying(scenes, scenes) == 0
    blurred = torch.nn.functional.avg_pool2d(scenes, 3, 1, 1)
    assert copying(blurred, scenes) > (blurred - scenes).abs().mean()
