"""What a segmenter calls what: of one that is right, of one that is blind, and of the ones that ship."""

import numpy as np
import pytest
import torch

import gandid
from gandid.errors import UsageError
from gandid.segmenters import load_segmenter
from lab import confusion as module
from lab import rooms
from lab.confusion import CLASSES, confusion


class Segmenter:
    background = rooms.BACKGROUND

    def __init__(self, label, classes=CLASSES):
        self.classes, self.label = classes, label

    def __call__(self, images):
        return self.label(images)


def truths(scenes, seed):
    """The evaluation's pictures and what they truly show, in its order."""
    images, labels = rooms.render(scenes, 64, seed)
    return module.spoilt(images, labels, torch.Generator().manual_seed(seed))


def test_a_segmenter_that_is_always_right_confuses_nothing():
    shown, truth = truths(48, 5)

    def right(images):
        assert torch.equal(images, shown)
        return truth.clamp(min=0)

    found = confusion(Segmenter(right), scenes=48, seed=5)
    assert list(found.index) == list(found.columns) == list(CLASSES)
    np.testing.assert_array_equal(found.to_numpy(), np.eye(len(CLASSES)))


def test_a_confusion_is_read_from_truth_to_name():
    _, truth = truths(48, 5)
    lamp, wall = CLASSES.index("lamp"), CLASSES.index("wall")

    def lampless(images):
        return torch.where(truth == lamp, wall, truth.clamp(min=0))

    found = confusion(Segmenter(lampless), scenes=48, seed=5)
    assert found.loc["lamp", "wall"] == 1
    assert found.loc["wall", "wall"] == 1
    assert found.loc["wall", "lamp"] == 0


def test_a_segmenter_without_unknown_is_measured_where_there_is_nothing_unknown():
    _, truth = truths(48, 5)
    turned = tuple(reversed(rooms.CLASSES))  # and numbers its classes otherwise
    place = torch.tensor([turned.index(name) for name in rooms.CLASSES] + [0])
    found = confusion(Segmenter(lambda images: place[truth.clamp(min=0)], turned), scenes=48, seed=5)
    assert list(found.index) == list(turned)
    np.testing.assert_array_equal(found.to_numpy(), np.eye(len(rooms.CLASSES)))


def test_half_of_the_pictures_carry_each_held_out_corruption_alike():
    _, truth = truths(48, 5)
    spoilt = (truth == CLASSES.index("unknown")).flatten(1).any(1)
    assert spoilt[::2].all()
    assert not spoilt[1::2].any()


def test_classes_that_no_render_has_cannot_be_measured():
    with pytest.raises(UsageError, match="this segmenter sees sky, sea"):
        confusion(Segmenter(None, ("sky", "sea")))


def test_the_shipped_matrix_is_the_measured_one():
    """The rooms segmenter's, on fewer renders than the 480 of the file beside the weights: up to their sampling."""
    segmenter = load_segmenter("rooms")
    shipped = gandid.segmenters.confusion(segmenter)
    assert list(shipped.index) == list(shipped.columns) == list(segmenter.classes)
    np.testing.assert_allclose(shipped.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(shipped, confusion(segmenter, scenes=120), atol=0.06)
