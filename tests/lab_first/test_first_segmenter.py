"""Training the segmenter: a killed and resumed run equals a whole one; batches and measures are right."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from gandid.errors import UsageError
from lab import corruptions
from lab.first import rooms
from lab.first.segmenter import CLASSES, evaluate_segmenter, quality_bars, train_segmenter

TINY = {"seed": 5, "steps": 6, "batch": 2, "scenes": 16, "resolution": 32, "threads": 1, "save_every": 2}


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_with_the_same_weights(tmp_path):
    whole = train_segmenter(tmp_path / "whole", **TINY, progress=False)

    # Each batch waits a little, so that the kill falls before the end.
    script = f"""
import time, torch
from pathlib import Path
from lab import corruptions
from lab.first import segmenter
quick = corruptions.training_batch
corruptions.training_batch = lambda *a: (time.sleep(1), quick(*a))[1]
segmenter.train_segmenter(Path({str(tmp_path / "killed")!r}), **{TINY!r}, progress=False)
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    deadline = time.monotonic() + 60
    while not checkpoint.is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.is_file()
    assert not (tmp_path / "killed" / "rooms.safetensors").exists()

    resumed = train_segmenter(tmp_path / "killed", **TINY, progress=False)
    assert resumed.read_bytes() == whole.read_bytes()
    assert (tmp_path / "killed" / "samples-000006.png").is_file()


def test_a_folder_with_another_run_is_refused(tmp_path):
    settings = {**TINY, "steps": 1, "progress": False}
    train_segmenter(tmp_path, **settings)
    with pytest.raises(UsageError, match="other settings"):
        train_segmenter(tmp_path, **{**settings, "seed": 6})


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"steps": 0}, {"batch": 0}, {"scenes": 0}])
def test_settings_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match="must be"):
        train_segmenter(tmp_path / "run", **{**TINY, **wrong})
    assert not (tmp_path / "run").exists()


def test_a_training_batch_depends_on_its_generator_only():
    images, labels = rooms.render(8, 64, seed=2)
    kept = images.clone(), labels.clone()
    batches = [
        corruptions.training_batch(images, labels, len(rooms.CLASSES), torch.Generator().manual_seed(7))
        for _ in range(2)
    ]
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])
    for first, second in zip(*batches, strict=True):
        assert torch.equal(first, second)
    assert batches[0][0].abs().max() <= 1


@pytest.mark.parametrize("n", [1, 2])
def test_small_batches_work_whatever_falls_to_them(n):
    images, labels = rooms.render(n, 32, seed=2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        pictures, truth = corruptions.training_batch(images, labels, len(rooms.CLASSES), generator)
        assert pictures.isfinite().all()
        assert truth.max() <= len(rooms.CLASSES)


@pytest.mark.parametrize("name", [*corruptions.TRAINED, *corruptions.HELD_OUT])
def test_each_corruption_changes_a_part_of_the_pictures(name):
    images, labels = rooms.render(32, 64, seed=4)
    corrupt = {**corruptions.TRAINED, **corruptions.HELD_OUT}[name]
    spoilt = corrupt(images, labels, corruptions.Draw(torch.Generator().manual_seed(1), 32, 64))
    share = (corruptions.change(images, spoilt) > corruptions.VISIBLE).float().mean()
    assert 0.005 < share < 0.5


def test_no_corruption_is_both_trained_on_and_held_out():
    assert not set(corruptions.TRAINED) & set(corruptions.HELD_OUT)
    assert len(corruptions.HELD_OUT) >= 5


class Oracle:
    """Knows the evaluation's renders, and says a fixed class of every other picture."""

    classes, background = CLASSES, rooms.BACKGROUND

    def __init__(self, scenes, seed, otherwise):
        images, self.labels = rooms.render(scenes, 64, seed)
        self.images, self.otherwise = images, CLASSES.index(otherwise)

    def __call__(self, images):
        if images.shape == self.images.shape and torch.equal(images, self.images):
            return self.labels
        return torch.full(images.shape[:1] + images.shape[2:], self.otherwise)


def test_measurements_of_a_perfect_and_of_a_blind_segmenter():
    perfect = evaluate_segmenter(Oracle(20, 9, otherwise="unknown"), scenes=20, seed=9)
    assert set(perfect["iou"].values()) == {1.0}
    assert perfect["accuracy"] == 1
    assert perfect["unknown_clean"] == 0
    assert set(perfect["recall"].values()) == {1.0}
    assert perfect["unknown_beside"] == 1
    assert all(met for *_, met in quality_bars(perfect))

    blind = evaluate_segmenter(Oracle(20, 9, otherwise="wall"), scenes=20, seed=9)
    assert blind["recall_all"] == 0
    assert blind["imperfect"]["iou"]["lamp"] == 0


def test_a_segmenter_of_something_else_cannot_be_measured_on_rooms():
    other = Oracle(1, 0, otherwise="wall")
    other.classes = ("sky", "sea")
    with pytest.raises(UsageError, match="does not know wall, floor"):
        evaluate_segmenter(other, scenes=1)
