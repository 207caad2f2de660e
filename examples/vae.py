"""The layout of the decoder of a VAE, and of latent diffusion (Rombach et al. 2022): maps as latents, and group normalization.

    gandid run --generator examples/vae.py:make --segmenter examples/your_gan.py:colours --layer conv_in \
        --target bright --units 4 --latents 64 --out runs/vae

Modules are named as in diffusers' AutoencoderKL, whose `decode` gives a data class with `sample`, too. Its latents are those that
an encoder gives, or a diffusion model; standard normal ones are what a VAE is trained towards. Where yours are drawn otherwise, give
the network `sample(n, generator)` in place of `latent_dim`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 16


@dataclass
class Decoded:
    """What the decoder gives."""

    sample: Tensor


class ResnetBlock(nn.Module):
    """Two convolutions, each after a group normalization, beside a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, WIDTH), nn.GroupNorm(4, WIDTH)
        self.conv1, self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Attention(nn.Module):
    """Attention between positions, after a group normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(4, WIDTH)
        self.to_qkv, self.to_out = nn.Conv2d(WIDTH, 3 * WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(self.group_norm(x)).flatten(2).mT.chunk(3, dim=-1)
        return x + self.to_out(F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape))


class Decoder(nn.Module):
    """Latents (N, 4, 8, 8) to images of 32 pixels, with random weights."""

    latent_dim = (4, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, WIDTH, 3, padding=1)
        self.mid_block = nn.Sequential(ResnetBlock(), Attention(), ResnetBlock())
        self.up_blocks = nn.Sequential(
            ResnetBlock(), nn.Upsample(scale_factor=2), ResnetBlock(), nn.Upsample(scale_factor=2)
        )
        self.conv_norm_out = nn.GroupNorm(4, WIDTH)
        self.conv_out = nn.Conv2d(WIDTH, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Decoded:
        x = self.up_blocks(self.mid_block(self.conv_in(z)))
        return Decoded(sample=self.conv_out(F.silu(self.conv_norm_out(x))))


def make() -> nn.Module:
    """The generator. Your own: `network.load_state_dict(torch.load("weights.pt", weights_only=True))`."""
    torch.manual_seed(0)
    return Decoder()
