"""A hand-made generator whose units' relation to its objects is known exactly.

Nine units on an 8x8 map, then one pixel normalization. Object `a`, `b` or `c` is there if its component of the latent is positive.
Both of its units are then 3 on its cells, and 0 elsewhere and otherwise; it is seen where the sum of the two exceeds 3.3
after the normalization: it is 6 / sqrt(19/9) = 4.1 there, and 3 / sqrt(10/9) = 2.8 once either is ablated. So either unit's
ablation takes the whole object, and no other unit's takes any of it. Of the others, one is 1 everywhere, one is 0, and one is
0.1 on a's cells and 0.2 elsewhere; none of them paints. Half of these sums, less 1, are the image.
"""

import torch
from torch import Tensor, nn

from gandid.generators.pggan import PixelNorm

SIZE = 8
CELLS = {"a": (slice(0, 2), slice(0, 3)), "b": (slice(5, 8), slice(1, 2)), "c": (slice(4, 6), slice(4, 8))}
AREA = {"a": 6 / 64, "b": 3 / 64, "c": 8 / 64}
UNITS = {"a": (0, 4), "b": (1, 5), "c": (2, 6)}
SEEN = 3.3


class Painter(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        units = torch.zeros(len(z), 9, SIZE, SIZE)
        units[:, 3] = 1
        units[:, 8] = 0.2
        units[:, 8, *CELLS["a"]] = 0.1
        for i, (name, cells) in enumerate(CELLS.items()):
            for unit in UNITS[name]:
                units[:, unit, *cells] = 3 * (z[:, i, None, None] > 0)
        return units


class RelationGenerator(nn.Module):
    latent_dim = 3
    resolution = SIZE
    layers = ("painter",)

    def __init__(self):
        super().__init__()
        self.painter = Painter()
        self.norm = PixelNorm()

    def forward(self, z: Tensor) -> Tensor:
        units = self.norm(self.painter(z))
        return torch.stack([units[:, list(pair)].sum(dim=1) for pair in UNITS.values()], dim=1) / 2 - 1


class RelationSegmenter:
    classes = ("wall", "a", "b", "c")
    background = ("wall",)

    def scores(self, images: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(images[:, :1]), 2 * (images + 1) - SEEN], dim=1)

    def __call__(self, images: Tensor) -> Tensor:
        return self.scores(images).argmax(dim=1)

    def probabilities(self, images: Tensor) -> Tensor:
        return self.scores(images).softmax(dim=1)
