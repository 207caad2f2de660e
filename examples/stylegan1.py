"""The layout of StyleGAN's first version (Karras et al. 2019): adaptive instance normalization, and noise in every layer.

    gandid run --generator examples/stylegan1.py:make --segmenter examples/your_gan.py:colours --layer blocks.1.conv \
        --target bright --units 4 --latents 64 --out runs/stylegan1

The noise is drawn once for each latent, and is the same in all arms. Each unit has a statistic of its own, so that the first site
gives nothing to the survivors of an ablated unit; but live it amplifies the noise that is added to the ablated unit's zeros.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 16


class Layer(nn.Module):
    """A convolution, noise, and adaptive instance normalization: the style gives each unit's scale and bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.InstanceNorm2d(WIDTH)
        self.style, self.strength = nn.Linear(WIDTH, 2 * WIDTH), nn.Parameter(torch.full((1, WIDTH, 1, 1), 0.1))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        x = self.norm(F.leaky_relu(self.conv(x) + self.strength * noise, 0.2))
        scale, bias = self.style(w)[:, :, None, None].chunk(2, dim=1)
        return x * (1 + scale) + bias


class StyleGAN(nn.Module):
    """Latents (N, 16), and noise for each layer, to an image of 16 pixels and the latent's style, with random weights."""

    latent_dim = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.inputs = {
            "noise": [(1, 4, 4), (1, 8, 8), (1, 16, 16)]
        }  # shapes of standard normal numbers, drawn for each latent
        self.mapping = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, WIDTH))
        self.constant = nn.Parameter(torch.randn(1, WIDTH, 4, 4))
        self.blocks = nn.ModuleList([Layer() for _ in range(3)])
        self.colour = nn.Conv2d(WIDTH, 3, 1)

    def forward(self, z: Tensor, noise: list[Tensor]) -> tuple[Tensor, Tensor]:
        w = self.mapping(F.normalize(z) * WIDTH**0.5)
        x = self.constant.expand(len(z), -1, -1, -1)
        for i, (layer, own) in enumerate(zip(self.blocks, noise, strict=True)):
            x = layer(F.interpolate(x, scale_factor=2) if i else x, w, own)
        return torch.tanh(self.colour(x)), w


def make() -> nn.Module:
    """The generator. Your own: `network.load_state_dict(torch.load("weights.pt", weights_only=True))`."""
    torch.manual_seed(0)
    return StyleGAN()
