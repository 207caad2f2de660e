"""A generator while it grows (Karras et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gandid.generators.pggan import Generator, Output, PixelNorm


class Growing(nn.Module):
    """A generator while it grows: the maps of each resolution have an output of their own, and a new one fades in."""

    def __init__(self, channels: Sequence[int], latent_dim: int, pixel_norm: bool = True):
        super().__init__()
        self.net = Generator(channels, latent_dim, pixel_norm)
        norm = PixelNorm if pixel_norm else nn.Identity
        self.outputs = nn.ModuleList(Output(norm(), width) for width in channels[:-1])
        self.outputs.append(self.net.output)

    def forward(self, z: Tensor, stage: int, alpha: float) -> Tensor:
        """Images of stage `stage` (0 is 4x4), blended with the upsampled one before by `1 - alpha`."""
        layer = f"layer{2 * stage}"
        if stage == 0:
            return self.outputs[0](self.net.prefix(z, "layer2"))
        x = self.net.prefix(z, layer)
        fine = self.net.get_submodule(f"layer{2 * stage + 1}")(x)
        image = self.outputs[stage](self.net.get_submodule(f"layer{2 * stage + 2}")(fine))
        if alpha < 1:
            coarse = F.interpolate(self.outputs[stage - 1](x), scale_factor=2, mode="nearest")
            image = torch.lerp(coarse, image, alpha)
        return image
