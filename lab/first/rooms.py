"""Rooms: procedural interiors whose objects compete for places, with exact masks.

A scene is a wall over a floor. Two places on the wall each hold a window, a painting or nothing; a lamp hangs from
the ceiling over the middle; chair and rug share the floor; a plant stands at a side and may hide what hangs there.

Scenes are painted back to front as *parts* (a frame, a pane, a leaf) into one index map at three times the resolution,
so that a class mask is exact: the class with most samples in a pixel. Coordinates run from 0 to 1, `y` downwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lab.rooms import SAMPLES, majority

CLASSES = ("wall", "floor", "window", "painting", "lamp", "chair", "plant", "rug")
BACKGROUND = ("wall", "floor")
OBJECTS = tuple(name for name in CLASSES if name not in BACKGROUND)

# The parts that a scene is painted of, back to front (a later part hides an earlier one), and the class of each.
PARTS = {
    "wall": "wall",
    "floor": "floor",
    "skirting": "wall",
    "window frame": "window",
    "upper panes": "window",
    "lower panes": "window",
    "painting frame": "painting",
    "canvas": "painting",
    "motif": "painting",
    "bulb": "lamp",
    "cord": "lamp",
    "shade": "lamp",
    "rug border": "rug",
    "rug": "rug",
    "chair legs": "chair",
    "chair back": "chair",
    "chair seat": "chair",
    "dark leaf": "plant",
    "bright leaf": "plant",
    "pot": "plant",
}
_PART = {name: index for index, name in enumerate(PARTS)}
_CLASS_OF_PART = torch.tensor([CLASSES.index(name) for name in PARTS.values()])

_DRAWS = 160  # random numbers per scene: a fixed number, so that scene i does not depend on how many are drawn
_BATCH = 64  # scenes painted at once: the index maps of a batch stay in the cache


def render(n: int, resolution: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Paint `n` scenes.

    Scene `i` of a seed is the same for every `n`.

    Parameters
    ----------
    n : int
        How many scenes.
    resolution : int
        Height and width in pixels.
    seed : int
        Seed of the random numbers.

    Returns
    -------
    images : Tensor, float32, shape (n, 3, resolution, resolution)
        Colours in [-1, 1].
    labels : Tensor, int64, shape (n, resolution, resolution)
        Index into `CLASSES` of the class that covers most of the pixel.
    """
    draws = torch.from_numpy(np.random.Generator(np.random.Philox(seed)).random((n, _DRAWS), dtype=np.float32))
    images = torch.empty(n, 3, resolution, resolution)
    labels = torch.empty(n, resolution, resolution, dtype=torch.int64)
    for start in range(0, n, _BATCH):
        rows = slice(start, start + _BATCH)
        images[rows], labels[rows] = _paint(draws[rows], resolution)
    return images, labels


class _Draws:
    """Hands out the random numbers of a batch of scenes one column at a time."""

    def __init__(self, values: Tensor):
        self.values, self.used = values, 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        column = self.values[:, self.used]
        self.used += 1
        return low + (high - low) * column

    def chance(self, probability: float) -> Tensor:
        return self.uniform() < probability

    def colour(self, choices: list[tuple[float, float, float]], spread: float = 0.06) -> Tensor:
        """One of the colours per scene, varied a little: shape (n, 3), in [0, 1]."""
        chosen = torch.tensor(choices)[(self.uniform() * len(choices)).long().clamp(max=len(choices) - 1)]
        shift = torch.stack([self.uniform(-spread, spread) for _ in range(3)], dim=1)
        return (chosen + shift).clamp(0, 1)


@dataclass
class _Canvas:
    """The index map of a batch of scenes; each method paints one part where it is `present`."""

    index: Tensor  # (n, S, S) uint8
    axis: Tensor  # (S,) sample positions in (0, 1)

    def box(self, part: str, cx: Tensor, cy: Tensor, width: Tensor, height: Tensor, present: Tensor) -> None:
        columns = (self.axis - cx[:, None]).abs() <= width[:, None] / 2
        rows = (self.axis - cy[:, None]).abs() <= height[:, None] / 2
        rows &= present[:, None]
        self._fill(part, rows.view(torch.uint8)[:, :, None] * columns.view(torch.uint8)[:, None, :])

    def trapezoid(
        self,
        part: str,
        cx: Tensor,
        top: Tensor,
        bottom: Tensor,
        width_top: Tensor,
        width_bottom: Tensor,
        present: Tensor,
    ) -> None:
        depth = (self.axis - top[:, None]) / (bottom - top)[:, None]
        half = (width_top[:, None] + (width_bottom - width_top)[:, None] * depth) / 2
        half = torch.where((depth >= 0) & (depth <= 1) & present[:, None], half, -1.0)
        self._fill(part, ((self.axis - cx[:, None]).abs()[:, None, :] <= half[:, :, None]).view(torch.uint8))

    def ellipse(
        self, part: str, cx: Tensor, cy: Tensor, rx: Tensor, ry: Tensor, present: Tensor, angle: Tensor | None = None
    ) -> None:
        dx, dy = self.axis - cx[:, None], self.axis - cy[:, None]
        limit = torch.where(present, 1.0, -1.0)[:, None, None]
        if angle is None:
            reach = ((dx / rx[:, None]) ** 2)[:, None, :] + ((dy / ry[:, None]) ** 2)[:, :, None]
        else:
            cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
            along = (dx * cos / rx[:, None])[:, None, :] + (dy * sin / rx[:, None])[:, :, None]
            across = (dy * cos / ry[:, None])[:, :, None] - (dx * sin / ry[:, None])[:, None, :]
            reach = along.square_().add_(across.square_())
        self._fill(part, (reach <= limit).view(torch.uint8))

    def _fill(self, part: str, mask: Tensor) -> None:
        # Parts are numbered back to front, so the larger index is the one in view.
        torch.maximum(self.index, mask * _PART[part], out=self.index)


def _paint(draws: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    n, samples = len(draws), resolution * SAMPLES
    draw = _Draws(draws)
    axis = (torch.arange(samples) + 0.5) / samples
    canvas = _Canvas(torch.zeros(n, samples, samples, dtype=torch.uint8), axis)
    palette = torch.zeros(n, len(PARTS), 3)

    def dye(part: str, colour: Tensor) -> None:
        palette[:, _PART[part]] = colour

    everywhere = torch.ones(n, dtype=torch.bool)
    middle = torch.full((n,), 0.5)

    # Wall and floor
    horizon = draw.uniform(0.64, 0.72)
    canvas.box("floor", middle, (horizon + 1) / 2, middle * 2, 1 - horizon, everywhere)
    canvas.box("skirting", middle, horizon - 0.012, middle * 2, torch.full((n,), 0.024), everywhere)
    wall = draw.colour([(0.80, 0.76, 0.68), (0.70, 0.78, 0.74), (0.76, 0.72, 0.78), (0.84, 0.80, 0.74)])
    dye("wall", wall)
    dye("skirting", (wall * 1.12).clamp(max=1))
    dye("floor", draw.colour([(0.52, 0.36, 0.24), (0.42, 0.30, 0.22), (0.60, 0.46, 0.32)]))

    # The two places on the wall
    dye("window frame", draw.colour([(0.96, 0.96, 0.95)], 0.03))
    sky = draw.colour([(0.38, 0.62, 0.92), (0.50, 0.72, 0.94)], 0.05)
    dye("upper panes", sky)
    dye("lower panes", (sky + draw.uniform(0.10, 0.22)[:, None]).clamp(max=1))
    dye("painting frame", draw.colour([(0.30, 0.18, 0.10), (0.52, 0.38, 0.12), (0.14, 0.12, 0.12)], 0.04))
    dye("canvas", draw.colour([(0.86, 0.46, 0.22), (0.80, 0.28, 0.28), (0.90, 0.70, 0.30)], 0.08))
    dye("motif", draw.colour([(0.30, 0.20, 0.42), (0.22, 0.34, 0.22), (0.55, 0.12, 0.16)], 0.06))
    for side in (0.25, 0.75):
        holds = draw.uniform()
        is_window, is_painting = holds < 0.42, holds >= 0.58
        cx, cy = side + draw.uniform(-0.03, 0.03), draw.uniform(0.30, 0.36)
        width, height = draw.uniform(0.23, 0.30), draw.uniform(0.28, 0.36)
        bar = torch.full((n,), 0.028)
        canvas.box("window frame", cx, cy, width, height, is_window)
        pane_width, pane_height = width / 2 - 1.5 * bar, height / 2 - 1.5 * bar
        for name, offset in (("upper panes", -1), ("lower panes", 1)):
            y = cy + offset * (pane_height + bar) / 2
            for step in (-1, 1):
                canvas.box(name, cx + step * (pane_width + bar) / 2, y, pane_width, pane_height, is_window)
        width, height = draw.uniform(0.18, 0.27), draw.uniform(0.17, 0.25)
        canvas.box("painting frame", cx, cy, width, height, is_painting)
        canvas.box("canvas", cx, cy, width - 0.05, height - 0.05, is_painting)
        mx, my = draw.uniform(-0.25, 0.25), draw.uniform(-0.05, 0.2)
        canvas.ellipse(
            "motif", cx + mx * (width - 0.12), cy + my * (height - 0.1), width * 0.2, height * 0.2, is_painting
        )

    # The lamp
    has_lamp = draw.chance(0.7)
    lamp_x, lamp_y = draw.uniform(0.45, 0.55), draw.uniform(0.13, 0.22)
    lamp_height, lamp_width = draw.uniform(0.09, 0.13), draw.uniform(0.15, 0.21)
    canvas.ellipse("bulb", lamp_x, lamp_y + lamp_height, lamp_width * 0.22, lamp_width * 0.22, has_lamp)
    canvas.box("cord", lamp_x, lamp_y / 2, torch.full((n,), 0.024), lamp_y, has_lamp)
    lamp_top = lamp_width * draw.uniform(0.35, 0.6)
    canvas.trapezoid("shade", lamp_x, lamp_y, lamp_y + lamp_height, lamp_top, lamp_width, has_lamp)
    dye("cord", draw.colour([(0.10, 0.10, 0.10)], 0.03))
    dye("shade", draw.colour([(0.16, 0.42, 0.40), (0.20, 0.24, 0.46), (0.46, 0.16, 0.30)], 0.05))
    dye("bulb", draw.colour([(1.0, 0.95, 0.70)], 0.02))

    # The rug, and the chair that may stand on it
    has_rug = draw.chance(0.65)
    rug_x, rug_y = draw.uniform(0.36, 0.64), draw.uniform(0.85, 0.89)
    rug_rx, rug_ry = draw.uniform(0.24, 0.34), draw.uniform(0.065, 0.095)
    canvas.ellipse("rug border", rug_x, rug_y, rug_rx, rug_ry, has_rug)
    canvas.ellipse("rug", rug_x, rug_y, rug_rx * 0.82, rug_ry * 0.70, has_rug)
    dye("rug border", draw.colour([(0.92, 0.86, 0.72), (0.80, 0.82, 0.84)], 0.04))
    dye("rug", draw.colour([(0.70, 0.18, 0.22), (0.22, 0.30, 0.56), (0.40, 0.20, 0.46)], 0.06))

    has_chair = draw.chance(0.6)
    chair_x, chair_foot = draw.uniform(0.32, 0.68), draw.uniform(0.84, 0.92)
    seat_width, seat_height = draw.uniform(0.18, 0.24), draw.uniform(0.13, 0.17)
    back_height, leg = draw.uniform(0.17, 0.23), torch.full((n,), 0.032)
    seat_y = chair_foot - seat_height
    for step in (-1, 1):
        canvas.box(
            "chair legs",
            chair_x + step * (seat_width - leg) / 2,
            (seat_y + chair_foot) / 2,
            leg,
            seat_height,
            has_chair,
        )
    facing = torch.where(draw.chance(0.5), 1.0, -1.0)
    back_width = draw.uniform(0.055, 0.075)
    back_x = chair_x + facing * (seat_width - back_width) / 2
    canvas.box("chair back", back_x, seat_y - back_height / 2, back_width, back_height, has_chair)
    canvas.box("chair seat", chair_x, seat_y + 0.015, seat_width, torch.full((n,), 0.06), has_chair)
    chair = draw.colour([(0.82, 0.20, 0.14), (0.92, 0.62, 0.12), (0.12, 0.44, 0.62)], 0.06)
    dye("chair back", chair * 0.88)
    dye("chair seat", chair)
    dye("chair legs", chair * 0.55)

    # The plant, at one of the sides
    has_plant = draw.chance(0.6)
    toward = torch.where(draw.chance(0.5), 1.0, -1.0)
    plant_x = 0.5 + toward * draw.uniform(0.36, 0.42)
    pot_top, pot_width = draw.uniform(0.66, 0.72), draw.uniform(0.12, 0.16)
    pot_foot = pot_top + draw.uniform(0.12, 0.16)
    leaf_length = draw.uniform(0.11, 0.15)
    for place, lean in enumerate((-1.0, 1.0, -0.55, 0.55, 0.0)):
        angle = lean + draw.uniform(-0.15, 0.15)
        reach = leaf_length * draw.uniform(0.85, 1.1)
        tall = 1.0 + 0.5 * torch.cos(angle)  # the leaves in the middle stand higher
        cx, cy = plant_x + torch.sin(angle) * reach * 0.9, pot_top - torch.cos(angle) * reach * tall * 0.9
        canvas.ellipse(
            "dark leaf" if place < 2 else "bright leaf",
            cx,
            cy,
            reach * tall,
            reach * 0.36,
            has_plant,
            angle - torch.pi / 2,
        )
    canvas.trapezoid("pot", plant_x, pot_top, pot_foot, pot_width, pot_width * 0.75, has_plant)
    leaf = draw.colour([(0.20, 0.52, 0.20), (0.30, 0.56, 0.16), (0.12, 0.44, 0.26)], 0.05)
    dye("bright leaf", leaf)
    dye("dark leaf", leaf * 0.7)
    dye("pot", draw.colour([(0.72, 0.36, 0.24), (0.88, 0.86, 0.82)], 0.05))

    # Light: one brightness per scene, falling off to one side and towards the floor's far end
    brightness, slope = draw.uniform(0.82, 1.06), draw.uniform(-0.16, 0.16)
    light = brightness[:, None, None] * (
        1 + slope[:, None, None] * (2 * axis - 1)[None, None, :] + 0.06 * (axis - 0.5)[None, :, None]
    )
    mirrored = draw.chance(0.5)

    index = torch.where(mirrored[:, None, None], canvas.index.flip(2), canvas.index).long()
    light = torch.where(mirrored[:, None, None], light.flip(2), light)
    flat = index.flatten(1)
    colours = palette.transpose(1, 2).gather(2, flat[:, None, :].expand(-1, 3, -1)).view(n, 3, samples, samples)
    images = F.avg_pool2d(colours.mul_(light[:, None]).clamp_(0, 1), SAMPLES).mul_(2).sub_(1)
    return images, majority(_CLASS_OF_PART[index], len(CLASSES))
