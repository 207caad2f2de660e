"""The network of the segmenter `rooms`: a U-Net small enough to label a thousand 64 px images a second on two cores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from gandid.segmenters.pixelwise import Convolution, PixelNetwork

WIDTHS = (24, 48, 96)


class UNet(PixelNetwork):
    """Class scores for each pixel, from maps at a half, a quarter and an eighth of the resolution.

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
