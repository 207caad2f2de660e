"""The networks of the embedded segmenters, quick enough to label a thousand 64 px images a second on two cores.

Two things make them quick. Blocks of 2 x 2 pixels are folded into channels, so that the widest maps have a quarter of the
positions, and the last convolution unfolds them again. And the batch normalizations that training needs are folded into the
convolutions before the weights are stored, so that a stored network has none.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WIDTHS = (24, 48, 96)  # of the U-Net
WIDTH = 32  # of the other network: it is to cost no more than the U-Net
DILATIONS = (2, 4, 8, 1)  # a pixel sees 33 x 33 blocks, 66 x 66 pixels: more than a picture of 64


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


class UNet(PixelNetwork):
    """Of `rooms`: class scores from maps at a half, a quarter and an eighth of the resolution.

    Parameters
    ----------
    classes, normalized
        See `PixelNetwork`.
    widths : tuple of three int
        Channels at a half, a quarter and an eighth of the resolution.
    """

    multiple = 8  # one folding and two halvings

    def __init__(self, classes: int, widths: tuple[int, int, int] = WIDTHS, normalized: bool = True):
        super().__init__(classes, normalized, widths=widths)
        half, quarter, eighth = widths
        self.at_half = nn.Sequential(Convolution(12, half, normalized), Convolution(half, half, normalized))
        self.at_quarter = nn.Sequential(
            Convolution(half, quarter, normalized, stride=2), Convolution(quarter, quarter, normalized)
        )
        # The dilated one sees most of a 64 px picture: whether something belongs to a room depends on where
        # it is.
        self.at_eighth = nn.Sequential(
            Convolution(quarter, eighth, normalized, stride=2),
            Convolution(eighth, eighth, normalized, dilation=2),
            Convolution(eighth, eighth, normalized),
        )
        self.to_quarter = nn.Conv2d(eighth, quarter, 1)
        self.up_quarter = Convolution(quarter, quarter, normalized)
        self.to_half = nn.Conv2d(quarter, half, 1)
        self.up_half = Convolution(half, half, normalized)
        self.score = nn.Conv2d(half, 4 * classes, 1)

    def features(self, blocks: torch.Tensor) -> torch.Tensor:
        """See `PixelNetwork`."""
        half = self.at_half(blocks)
        quarter = self.at_quarter(half)
        eighth = self.at_eighth(quarter)
        quarter = self.up_quarter(quarter + F.interpolate(self.to_quarter(eighth), scale_factor=2))
        return self.up_half(half + F.interpolate(self.to_half(quarter), scale_factor=2))


class Dilated(PixelNetwork):
    """Of `rooms-dilated`: class scores from a sum of dilated convolutions, all at one resolution.

    It is built unlike the U-Net on purpose, so that the two err differently: nothing is scaled down or up, each layer adds to
    what the layers before it found (He et al. 2016), and how far it sees comes from the spacing of its weights alone (Yu and
    Koltun 2016, "Multi-Scale Context Aggregation by Dilated Convolutions").

    Parameters
    ----------
    classes, normalized
        See `PixelNetwork`.
    width : int
        Channels of every layer.
    dilations : tuple of int
        Of each layer, in blocks of pixels.
    """

    def __init__(
        self, classes: int, width: int = WIDTH, dilations: tuple[int, ...] = DILATIONS, normalized: bool = True
    ):
        super().__init__(classes, normalized, width=width, dilations=dilations)
        self.enter = Convolution(12, width, normalized)
        self.context = nn.ModuleList(Convolution(width, width, normalized, dilation=d) for d in dilations)
        self.score = nn.Conv2d(width, 4 * classes, 1)

    def features(self, blocks: torch.Tensor) -> torch.Tensor:
        """See `PixelNetwork`."""
        x = self.enter(blocks)
        for convolution in self.context:
            x = x + convolution(x)
        return x


def unfold_blocks(blocks: torch.Tensor) -> torch.Tensor:
    """Put the 2 x 2 blocks of (N, H / 2, W / 2, 2, 2, ...) in place: (N, H, W, ...)."""
    n, rows, columns = blocks.shape[:3]
    return blocks.transpose(2, 3).reshape(n, 2 * rows, 2 * columns, *blocks.shape[5:])
