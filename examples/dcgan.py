"""The layout of DCGAN (Radford et al. 2016): latents (N, D, 1, 1), and batch normalization, which stores its statistics.

    gandid run --generator examples/dcgan.py:make --segmenter examples/your_gan.py:colours --layer main.3 \
        --target bright --units 4 --latents 64 --out runs/dcgan

An edit cannot reach a stored statistic: every difference between live and held is exactly 0, and the report says why.
"""

import torch
from torch import Tensor, nn


class DCGAN(nn.Module):
    """Latents (N, 16, 1, 1) to images of 32 pixels, with random weights; `main` is numbered as in PyTorch's tutorial."""

    latent_dim = (16, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        widths, layers = (32, 24, 16), [nn.ConvTranspose2d(16, 32, 4, 1, 0, bias=False)]
        for width, narrower in zip(widths, (*widths[1:], 3), strict=True):
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.ConvTranspose2d(width, narrower, 4, 2, 1, bias=False)]
        self.main = nn.Sequential(*layers, nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)


def make() -> nn.Module:
    """The generator. Your own: `network.load_state_dict(torch.load("weights.pt", weights_only=True))`."""
    torch.manual_seed(0)
    network = DCGAN()
    with torch.no_grad():
        network.main[-2].weight *= 8
        for _ in range(20):  # as training does, which has the batch normalizations store what they see
            network(torch.randn(64, 16, 1, 1))
    return network
