"""A hand-made scene of three objects in which the relation after an ablation, and insertion, are known in closed form.

Four units on an 8x8 map, then one pixel normalization; its channels A, B and C, less 1, are the image. Class `a` is seen
where channel A exceeds 0.8, else `b` where B does, else `c` where C does, else `wall`.

- A is 3 in the upper left square of 2x2 cells;
- B is 3 in the two lower left cells and, for latents with z > 0, 1 in A's square: there it is 0.60 and not seen beside A, and
  1.41 and seen once A is ablated, unless the site is held at its old statistic;
- C is 7 in the three lower right cells;
- W is 1 everywhere and paints nothing.

*After A is ablated*, B makes 2 + 4 cells of b instead of 2 for a latent with z > 0: the ACE of B on b is 2 before and
2 + 4 [z > 0] after, live, and 2 held. C makes 3 either way.

*Inserting A = 3* in a region: on the wall the site gives 1.90 and on b 1.38, which is seen; on c it divides by 3.84, which
leaves 0.78 and is not seen, unless the site is held at the old 3.54 (0.85): so it is under `frozen`, but not under `capped`,
which lets a statistic grow.
"""

import torch
from torch import Tensor, nn

from gandid.generators.pggan import PixelNorm

SIZE = 8
CELLS = {"a": 4, "b": 2, "c": 3, "wall": 55}
UNITS = {"a": 0, "b": 1, "c": 3}


class Scene(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        units = torch.zeros(len(z), 4, SIZE, SIZE)
        units[:, 0, :2, :2] = 3
        units[:, 1, :2, :2] = (z[:, :1, None] > 0).float()
        units[:, 1, -1, :2] = 3
        units[:, 2] = 1
        units[:, 3, -1, -3:] = 7
        return units


class SceneGenerator(nn.Module):
    latent_dim = 1
    resolution = SIZE
    layers = ("scene",)

    def __init__(self):
        super().__init__()
        self.scene = Scene()
        self.norm = PixelNorm()

    def forward(self, z: Tensor) -> Tensor:
        return self.norm(self.scene(z))[:, [0, 1, 3]] - 1


class SceneSegmenter:
    classes = ("wall", "a", "b", "c", "unknown")
    background = ("wall",)

    def __call__(self, images: Tensor) -> Tensor:
        seen = images + 1 > 0.8
        return torch.where(seen[:, 0], 1, torch.where(seen[:, 1], 2, torch.where(seen[:, 2], 3, 0)))
