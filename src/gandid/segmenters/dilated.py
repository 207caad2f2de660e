"""The network of the segmenter `rooms-dilated`: all layers at one resolution, context by dilation.

It is built unlike the U-Net on purpose, so that the two err differently: nothing is scaled down or up, each layer adds to what
the layers before it found (He et al. 2016), and how far it sees comes from the spacing of its weights alone (Yu and Koltun
2016, "Multi-Scale Context Aggregation by Dilated Convolutions").
"""

from __future__ import annotations

import torch
from torch import nn

from gandid.segmenters.pixelwise import Convolution, PixelNetwork

WIDTH = 48
DILATIONS = (1, 2, 4, 8, 1)  # a pixel sees 35 x 35 blocks, 70 x 70 pixels: more than a picture of 64


class Dilated(PixelNetwork):
    """Class scores for each pixel, from a sum of dilated convolutions.

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
