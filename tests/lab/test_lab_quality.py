"""The measure of a generator that copies: all of what is drawn right, none of what is not."""

import torch

from lab import rooms
from lab.quality import quality


class Painter(torch.nn.Module):
    """Draws the scenes themselves, but for one class."""

    def __init__(self, misses=None):
        super().__init__()
        self.resolution, self.misses = 32, misses

    def forward(self, z):
        images, labels = rooms.paint(z, 32)
        if self.misses:
            images[(labels == rooms.CLASSES.index(self.misses))[:, None].expand_as(images)] = -2
        return images


def test_the_scenes_themselves_are_perfect():
    table = quality(Painter(), 80)
    assert list(table.index) == list(rooms.CLASSES) and abs(table["area"].sum() - 1) < 1e-5
    assert (table[["drawn", "whole"]] == 1).all(axis=None) and (table["error"] == 0).all()


def test_a_class_that_is_missed_is_told():
    table = quality(Painter("chair"), 80)
    assert table.loc["chair", "drawn"] == 0 and table.loc["chair", "whole"] == 0 and table.loc["chair", "error"] > 0.5
    assert (table.drop(index="chair")["drawn"] == 1).all()
