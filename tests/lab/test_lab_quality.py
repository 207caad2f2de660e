"""The measure of a generator: a painter of the scenes meets every bar, one that leaves out a class misses its bars."""

import torch

from gandid.segmenters.function import FunctionSegmenter
from lab import rooms
from lab.quality import missed, quality

SCENES = 120


class Painter(torch.nn.Module):
    """Draws the number of each pixel's class, but for one that it draws as wall."""

    resolution = 32

    def __init__(self, misses=None):
        super().__init__()
        self.misses = misses

    def forward(self, z):
        labels = rooms.paint(z, 32)[1].float()
        if self.misses:
            labels[labels == rooms.CLASSES.index(self.misses)] = 0
        return labels[:, None].expand(-1, 3, -1, -1) / 16


def reader():
    """A segmenter that reads these numbers, and numbers its classes otherwise."""
    turned = ("unknown", *rooms.CLASSES)
    return FunctionSegmenter(lambda images: (images[:, 0] * 16).round().long() + 1, turned, rooms.BACKGROUND)


def test_the_scenes_themselves_are_perfect():
    table = quality(Painter(), reader(), SCENES)
    assert list(table.index) == [*rooms.CLASSES, "unknown"]
    known = table.drop(index="unknown")
    assert abs(known["area"].sum() - 1) < 1e-9 and (known[["ratio", "same"]].sub(1).abs() < 1e-6).all(axis=None)
    assert table.loc["unknown", "area"] == 0 and missed(table) == []


def test_a_class_that_is_missed_is_told():
    table = quality(Painter("chair"), reader(), SCENES)
    assert table.loc["chair", "area"] == 0 and table.loc["chair", "same"] == 0
    assert [line.partition(":")[0] for line in missed(table)] == ["chair", "chair"]  # of its area, of its presence
    assert table.drop(index=["chair", "unknown"])["same"].sub(1).abs().max() < 1e-6
