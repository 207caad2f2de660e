"""Progressive growing: the schedule, exact resume after a real kill, and what is written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gandid.errors import UsageError
from gandid.files import load_checkpoint, save_checkpoint
from gandid.generators import load_generator
from lab.first.generator import Schedule, train_generator

TINY = Schedule(channels=(8, 8, 6), latent_dim=5, images=(0, 80, 160), fade=(0, 0, 80), batch=8, scenes=64, r1_every=4)

SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from lab.first.generator import Schedule, train_generator
train_generator(Path(sys.argv[1]), Schedule(**eval(sys.argv[2])), save_every=4)
"""


def test_a_resolution_fades_in_and_then_stays():
    steps = list(TINY.steps())
    assert [stage for stage, _, _ in steps] == [1] * 10 + [2] * 20
    assert all(alpha == 1 for stage, _, alpha in steps if stage == 1)
    alphas = [alpha for stage, _, alpha in steps if stage == 2]
    assert alphas[:11] == pytest.approx([i / 10 for i in range(11)])
    assert alphas[10:] == [1.0] * 10


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    from dataclasses import asdict

    def start(out: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(out), repr(asdict(TINY))], env={**os.environ, "COLUMNS": "80"}
        )

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole).wait() == 0
    process, checkpoint = start(broken), broken / "checkpoint.pt"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = load_checkpoint(checkpoint)["done"]
    assert 0 < done < 30
    assert start(broken).wait() == 0
    for name in ("generator.safetensors", "discriminator.safetensors"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes(), name
    network = load_generator(broken / "generator.safetensors")
    assert network(torch.randn(2, 5)).shape == (2, 3, 16, 16)
    assert list(broken.glob("samples-*.png"))
    # A run of another schedule does not go on from this checkpoint.
    with pytest.raises(UsageError, match="another schedule"):
        train_generator(broken, Schedule(**{**asdict(TINY), "seed": 1}))


def test_a_checkpoint_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"done": 1})

    def torn(state, file):
        Path(file).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"done": 2})
    assert load_checkpoint(path) == {"done": 1}
