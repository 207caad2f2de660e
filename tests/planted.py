"""A hand-made generator whose difference-in-differences is known in closed form, and its twin without the mechanism.

Three units on an 8x8 map. In the left half unit A is 3; unit B is `faint` there for latents with z > 0, and 0 otherwise; unit
W is 1 everywhere. One pixel normalization follows, and the normalized units are the image's channels. Class `a` is seen where
channel A exceeds 0.8, else `b` where channel B does, else `wall`.

With `faint` = 1: unedited, B is 1 / sqrt(11/3) = 0.52 and not seen. With A ablated the site divides by sqrt(2/3), so B is
1.22 and seen; held at the old statistic it stays at 0.52. Hence, over the left half, `a` turns into `b` for every latent
with z > 0 when the site is live, and for none when it is held: the DID of `inpainted` is the share of such latents.
With `faint` = 0.05 the gain lifts B to 0.09 at most, which nobody sees: the DID is 0.
"""

import torch
from torch import Tensor, nn

from gandid.generators.pggan import PixelNorm

SIZE = 8


class Paint(nn.Module):
    def __init__(self, faint: float):
        super().__init__()
        self.amplitudes = nn.Parameter(torch.tensor([3.0, faint, 1.0]), requires_grad=False)

    def forward(self, z: Tensor) -> Tensor:
        left = (torch.arange(SIZE) < SIZE // 2).float().expand(SIZE, SIZE)
        shown = (z[:, :1, None, None] > 0).float()
        return torch.cat(
            [self.amplitudes[0] * left.expand(len(z), 1, -1, -1), self.amplitudes[1] * left * shown,
             self.amplitudes[2].expand(len(z), 1, SIZE, SIZE)], dim=1,
        )  # fmt: skip


class PlantedGenerator(nn.Module):
    latent_dim = 1
    resolution = SIZE
    layers = ("paint",)

    def __init__(self, faint: float = 1.0):
        super().__init__()
        self.paint = Paint(faint)
        self.norm = PixelNorm()

    def forward(self, z: Tensor) -> Tensor:
        return self.norm(self.paint(z))


class PlantedSegmenter:
    classes = ("wall", "a", "b", "never")
    background = ("wall",)

    def __call__(self, images: Tensor) -> Tensor:
        a, b = images[:, 0] > 0.8, images[:, 1] > 0.8
        return torch.where(a, 1, torch.where(b, 2, 0))
