"""What the embedded segmenters' networks share: blocks of pixels, convolutions, and normalizations that are folded away.

Two things make them quick. Blocks of 2 x 2 pixels are folded into channels, so that the widest maps have a quarter of the
positions, and the last convolution unfolds them again. And the batch normalizations that training needs are folded into the
convolutions before the weights are stored, so that a stored network has none.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Convolution(nn.Module):
    """A 3 x 3 convolution, batch normalization while it trains, and a rectifier."""

    def __init__(self, inputs: int, outputs: int, normalized: bool, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=not normalized)
        self.norm: nn.Module = nn.BatchNorm2d(outputs) if normalized else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        return F.relu(self.norm(self.conv(x)), inplace=True)


class PixelNetwork(nn.Module):
    """A network that scores the classes of each pixel.

    Parameters
    ----------
    classes : int
        How many classes to score.
    normalized : bool
        With batch normalization (to train), or with what it did folded into the convolutions (as stored).
    **shape
        What else its constructor takes, to build it again.

    Attributes
    ----------
    multiple : int
        Height and width of images must be divisible by this.
    score : nn.Conv2d
        The last layer: 1 x 1, from a map at half the resolution to the classes' scores of each pixel of a block.
    """

    multiple = 2
    score: nn.Conv2d

    def __init__(self, classes: int, normalized: bool, **shape: Any):
        super().__init__()
        self.classes, self.normalized, self.shape = classes, normalized, shape

    def features(self, blocks: torch.Tensor) -> torch.Tensor:
        """Map blocks of pixels (N, 12, H / 2, W / 2) to what `score` takes, (N, channels, H / 2, W / 2)."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Score each pixel.

        Parameters
        ----------
        images : Tensor, shape (N, 3, H, W), H and W divisible by `multiple`
            Colours in [-1, 1].

        Returns
        -------
        Tensor, shape (N, H / 2, W / 2, 2, 2, classes)
            Scores (logits), with the two rows and two columns of each block of pixels apart: the classes lie
            next to each other in memory, where finding the largest is quickest. `unfold_blocks` puts blocks
            in place.
        """
        blocks = F.pixel_unshuffle(images, 2).contiguous(memory_format=torch.channels_last)
        scores = self.score(self.features(blocks))
        n, _, rows, columns = scores.shape
        return scores.permute(0, 2, 3, 1).reshape(n, rows, columns, 2, 2, self.classes)


def unfold_blocks(blocks: torch.Tensor) -> torch.Tensor:
    """Put the 2 x 2 blocks of (N, H / 2, W / 2, 2, 2, ...) in place: (N, H, W, ...)."""
    n, rows, columns = blocks.shape[:3]
    return blocks.transpose(2, 3).reshape(n, 2 * rows, 2 * columns, *blocks.shape[5:])
