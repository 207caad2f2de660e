"""Training a segmenter: the same settings give the same weights; targets and measures are right."""

import pytest
import torch

from gandid.generators import load_generator
from gandid.segmenters import load_segmenter
from lab import edits, rooms
from lab.corruptions import IGNORED
from lab.segmenter import BATCH, CLASSES, agreement, batch, evaluate, generated, painted, reliability, train


@pytest.fixture(scope="module")
def generator():
    return load_generator("rooms")


def test_the_same_settings_give_the_same_weights(tmp_path, generator):
    for name in ("one", "two"):
        train(tmp_path / name, "dilated", [generator], steps=2, scenes=16)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert load_segmenter(tmp_path / "one").classes == CLASSES


def test_targets_of_generated_images(generator):
    """A quarter is unedited and has one class a pixel; what is partly gone has its room's class behind it."""
    made = generated([generator], 24, seed=5)
    assert made.images.shape == (24, 3, 64, 64) and set(made.labels.unique().tolist()) <= {IGNORED, *range(12)}
    assert (made.labels != IGNORED).float().mean() > 0.8
    partly = made.shares > 0
    assert partly.flatten(1).any(dim=1).float().mean() == 0.75
    assert set(made.others[partly].tolist()) <= {0, 1} and made.shares.max() <= 1  # wall and floor
    rendered = painted(16, 64, seed=3)
    images, named, _, shares = batch(rendered, made, torch.Generator().manual_seed(1))
    assert images.shape == (BATCH, 3, 64, 64) and images.abs().max() <= 1
    assert (shares[: BATCH // 2] == 0).all() and (named[BATCH // 2 :] < len(rooms.CLASSES)).all()


class Oracle:
    """Says what the scene of each image is, whatever became of the image; or "unknown" of images that it does not know."""

    classes = CLASSES

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __call__(self, images):
        known = images.shape == self.images.shape and torch.equal(images, self.images)
        return self.labels if known else torch.full(images.shape[:1] + images.shape[2:], CLASSES.index("unknown"))


def test_measures_of_a_perfect_segmenter():
    images, labels = rooms.paint(rooms.latents(20, 990_001), 64)
    table, recall = evaluate(Oracle(images, labels), scenes=20)
    assert (table["clean"].drop("unknown") == 1).all() and table.loc["unknown", "clean"] == 0
    assert table.loc["unknown", "worn"] == 1 and (recall == 1).all()


class Blind:
    """Says wall of everything, with a probability of 0.3 for each class."""

    classes = CLASSES

    def __call__(self, images):
        return torch.zeros(images.shape[:1] + images.shape[2:], dtype=torch.int64)

    def probabilities(self, images):
        return torch.full((len(images), len(CLASSES), *images.shape[2:]), 0.3)


def test_measures_of_a_blind_segmenter(generator):
    table = reliability(Blind(), generator, count=3)
    assert list(table.index) == [3] and table["probability"].iloc[0] == pytest.approx(0.3)
    truth = [edited.gone[edited.gone.isfinite()] for edited in edits.edits(generator, 3, 990_001)]
    assert table["left"].iloc[0] == pytest.approx(1 - float(torch.cat(truth).mean()), abs=1e-5)
    assert table["pixels"].iloc[0] == len(torch.cat(truth))


def test_a_segmenter_agrees_with_itself(generator):
    one = load_segmenter("rooms")
    table = agreement(one, one, generator, images=6)
    assert list(table.index) == [*rooms.OBJECTS, "all"] and (table["place"] == 1).all()
    assert ((table["removed"] >= 0) & (table["removed"] <= 1)).all() and table["removed"].max() > 0.5
