"""The layout of BigGAN (Brock et al. 2019): a class beside the latent, and batch normalization whose gain the class gives.

    gandid run --generator examples/biggan.py:make --segmenter examples/your_gan.py:colours --layer blocks.0.second \
        --input y=0..4 --target bright --units 4 --latents 64 --out runs/biggan

`--input y=3` would study one class alone. The statistics are stored, so that no edit reaches them: live and held are the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES, WIDTH, PART = 5, 24, 8


class ConditionalNorm(nn.Module):
    """Batch normalization with a gain and a bias that are linear in a vector."""

    def __init__(self, vector: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(WIDTH, affine=False)
        self.gain, self.bias = nn.Linear(vector, WIDTH, bias=False), nn.Linear(vector, WIDTH, bias=False)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        return self.bn(x) * (1 + self.gain(vector))[:, :, None, None] + self.bias(vector)[:, :, None, None]


class Block(nn.Module):
    """A residual block that doubles the map."""

    def __init__(self, vector: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = ConditionalNorm(vector), ConditionalNorm(vector)
        self.first, self.second = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.skip = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        h = self.first(F.interpolate(F.relu(self.bn1(x, vector)), scale_factor=2))
        return self.second(F.relu(self.bn2(h, vector))) + self.skip(F.interpolate(x, scale_factor=2))


class BigGAN(nn.Module):
    """Latents (N, 24) and classes (N,) to images of 16 pixels, with random weights. Each block has a part of the latent."""

    latent_dim = 3 * PART

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(CLASSES, PART)
        self.linear = nn.Linear(PART, WIDTH * 4 * 4)
        self.blocks = nn.ModuleList([Block(2 * PART), Block(2 * PART)])
        self.last, self.colour = nn.BatchNorm2d(WIDTH), nn.Conv2d(WIDTH, 3, 3, padding=1)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        z, *parts = z.split(PART, dim=1)
        x = self.linear(z).unflatten(1, (WIDTH, 4, 4))
        for block, part in zip(self.blocks, parts, strict=True):
            x = block(x, torch.cat([self.shared(y), part], dim=1))
        return torch.tanh(self.colour(F.relu(self.last(x))))


def make() -> nn.Module:
    """The generator. Your own: `network.load_state_dict(torch.load("weights.pt", weights_only=True))`."""
    torch.manual_seed(0)
    network = BigGAN()
    with torch.no_grad():
        for _ in range(20):  # as training does, which has the batch normalizations store what they see
            network(torch.randn(64, 3 * PART), torch.randint(CLASSES, (64,)))
    return network
