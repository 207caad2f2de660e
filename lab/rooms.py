"""Rooms, second version: interiors in which objects contest places, as a function of a latent, with exact masks.

Places. Each of two places on the wall holds exactly one of window, painting, shelf and mirror; one corner holds a plant or
a floor lamp; the middle holds a chair or a table. Context. A lamp mostly hangs where a table stands, a rug mostly lies
where a chair stands. Kinds. A chair is an armchair, a stool or a bench, in three colours and three poses; the hanging
lamp has one form and one colour.

**A scene is a function of a latent** of `LATENT` normal numbers, as a generator's image is. What holds a place is the
largest of the candidates' numbers, so every scene has a runner-up for each of its places: what would be there if the
winner were not. And a generator that was taught this function can be asked, latent by latent, whether it drew the scene.

Scenes are painted back to front into one index map at three times the resolution, so that a class mask is exact: the
class with most samples in a pixel. Coordinates run from 0 to 1, `y` downwards. Nothing is thinner than `THIN`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# The floor lamp is a class of its own. It contests the plant's corner, and the hanging lamp, which has a place of its own
# above the table, is to be the object of one kind: together they would be one object of two kinds in two places.
CLASSES = (
    "wall",
    "floor",
    "window",
    "painting",
    "shelf",
    "mirror",
    "lamp",
    "chair",
    "table",
    "plant",
    "floor lamp",
    "rug",
)
BACKGROUND = ("wall", "floor")
OBJECTS = tuple(name for name in CLASSES if name not in BACKGROUND)

ON_WALL = ("window", "painting", "shelf", "mirror")  # exactly one of them at each of the two places
CHAIRS = ("armchair", "stool", "bench")

LATENT = 64  # numbers in a latent, of which a scene uses the first `_USED`
SAMPLES = 3  # samples per pixel and axis
THIN = 0.05  # of the image: 3.2 pixels at 64 px
CONTEXT = (
    1.2815  # of a normal number: the lamp hangs above 90 % of the tables and 10 % of the chairs; the rug conversely
)
_BATCH = 64  # scenes painted at once: the index maps of a batch stay in the cache

Colour = tuple[float, float, float]


def latents(n: int, seed: int = 0) -> Tensor:
    """Draw latents, float32, shape (n, `LATENT`); number `i` of a seed is the same for every `n`."""
    random = np.random.Generator(np.random.Philox(seed))
    return torch.from_numpy(random.standard_normal((n, LATENT), dtype=np.float32))


def render(n: int, resolution: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Paint the scenes of `latents(n, seed)`: see `paint`."""
    return paint(latents(n, seed), resolution)


def paint(z: Tensor, resolution: int = 64, *, furnished: bool = True) -> tuple[Tensor, Tensor]:
    """Paint the scenes of latents.

    Parameters
    ----------
    z : Tensor, float32, shape (n, LATENT)
        Only the direction of a latent counts, as in a generator that normalizes its latents.
    resolution : int
        Height and width in pixels.
    furnished : bool
        False leaves all objects out: the same wall and floor in the same light.

    Returns
    -------
    images : Tensor, float32, shape (n, 3, resolution, resolution)
        Colours in [-1, 1].
    labels : Tensor, int64, shape (n, resolution, resolution)
        Index into `CLASSES` of the class that covers most of the pixel.
    """
    images = torch.empty(len(z), 3, resolution, resolution)
    labels = torch.empty(len(z), resolution, resolution, dtype=torch.int64)
    for start in range(0, len(z), _BATCH):
        rows = slice(start, start + _BATCH)
        canvas = _scene(z[rows], resolution, furnished)
        images[rows], labels[rows] = canvas.image(), canvas.labels()
    return images, labels


def pictures(z: Tensor, resolution: int = 64) -> Tensor:
    """Paint the images of `paint` alone, which takes less time."""
    return torch.cat([_scene(part, resolution).image() for part in z.split(_BATCH)])


def contents(z: Tensor) -> dict[str, list[str]]:
    """Name what is where in the scenes of latents (n, LATENT): a list of n names for each place.

    Keys are `left`, `right` (places on the wall), `corner`, `middle`, `chair` (its kind, or "none"), `lamp`, `rug` (the
    name, or "none"), and `left else`, `right else`: the runner-up of the place.
    """
    plan = _Plan(z)
    names = {
        side: [ON_WALL[i] for i in holds.argmax(dim=1).tolist()]
        for side, holds in (("left", plan.holds[0]), ("right", plan.holds[1]))
    }
    for side, holds in zip(("left", "right"), plan.holds, strict=True):
        names[f"{side} else"] = [ON_WALL[i] for i in holds.topk(2, dim=1).indices[:, 1].tolist()]
    names["corner"] = ["plant" if it else "floor lamp" for it in plan.is_plant.tolist()]
    names["middle"] = ["chair" if it else "table" for it in plan.is_chair.tolist()]
    names["chair"] = [
        CHAIRS[kind] if it else "none" for it, kind in zip(plan.is_chair.tolist(), plan.kind.tolist(), strict=True)
    ]
    names["lamp"] = ["lamp" if it else "none" for it in plan.has_lamp.tolist()]
    names["rug"] = ["rug" if it else "none" for it in plan.has_rug.tolist()]
    return names


class _Latent:
    """Hands out the numbers of a batch of latents one column after the other, in the words of a scene."""

    def __init__(self, z: Tensor):
        self.values = F.normalize(z, dim=1) * math.sqrt(z.shape[1])
        self.used = 0

    def normal(self, columns: int = 1) -> Tensor:
        """Independent numbers, nearly standard normal: shape (n, columns)."""
        self.used += columns
        return self.values[:, self.used - columns : self.used]

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.special.ndtr(self.normal()[:, 0])

    def sign(self) -> Tensor:
        return torch.where(self.normal()[:, 0] > 0, 1.0, -1.0)

    def choice(self, among: int) -> Tensor:
        return self.normal(among).argmax(dim=1)

    def shade(self, *colours: Colour) -> Tensor:
        """Give a colour on the way through these: shape (n, 3)."""
        path, at = torch.tensor(colours), self.uniform(0, len(colours) - 1)
        before = at.long().clamp(max=len(colours) - 2)
        return torch.lerp(path[before], path[before + 1], (at - before)[:, None])


class _Plan:
    """What is in the scenes, and where: the latent is read here and nowhere else."""

    def __init__(self, z: Tensor):
        draw = _Latent(z)
        # What is there
        self.holds = [draw.normal(len(ON_WALL)) for _ in range(2)]
        self.side = draw.sign()  # of the corner: -1 is left
        self.is_plant = draw.sign() > 0
        self.is_chair = draw.sign() > 0
        self.kind, self.colour, self.pose = (draw.choice(3) for _ in range(3))
        toward_table = torch.where(self.is_chair, -CONTEXT, CONTEXT)
        self.has_lamp = draw.normal()[:, 0] + toward_table > 0
        self.has_rug = draw.normal()[:, 0] - toward_table > 0
        # Where it is: a pixel or two to each side, and the middle, with what goes with it, somewhat more
        self.place_x = [centre + draw.uniform(-0.015, 0.015) for centre in (0.20, 0.80)]
        self.place_y = [draw.uniform(0.22, 0.25) for _ in range(2)]
        self.corner_x = 0.5 + self.side * draw.uniform(0.38, 0.40)
        self.middle_x = draw.uniform(0.47, 0.53)
        self.lamp_foot = draw.uniform(0.27, 0.32)
        # In which colours
        self.light = draw.uniform(0.86, 1.0)
        self.wall = draw.shade((0.60, 0.71, 0.65), (0.80, 0.74, 0.62), (0.64, 0.64, 0.78))
        self.floor = draw.shade((0.36, 0.25, 0.19), (0.52, 0.40, 0.29))
        self.sky = draw.shade((0.36, 0.62, 0.95), (0.66, 0.85, 0.98))
        self.canvas = draw.shade((0.93, 0.58, 0.34), (0.95, 0.83, 0.50))
        self.rim = draw.shade((0.78, 0.60, 0.20), (0.52, 0.40, 0.46))
        self.wood = draw.shade((0.47, 0.27, 0.12), (0.62, 0.42, 0.22))
        self.leaf = draw.shade((0.14, 0.46, 0.22), (0.38, 0.60, 0.18))
        self.pot = draw.shade((0.76, 0.38, 0.24), (0.90, 0.88, 0.84))
        self.rug = draw.shade((0.66, 0.18, 0.30), (0.40, 0.22, 0.52), (0.20, 0.40, 0.48))
        self.used = draw.used


class _Canvas:
    """The index map of a batch of scenes; each method paints one part where it is `present`, over what is there.

    Every part has a number of its own, a class and a colour: one for all scenes, or shape (n, 3).
    """

    def __init__(self, n: int, resolution: int, light: Tensor):
        samples = resolution * SAMPLES
        self.axis = (torch.arange(samples) + 0.5) / samples
        self.index = torch.zeros(n, samples, samples, dtype=torch.uint8)
        self.light, self.everywhere = light, torch.ones(n, dtype=torch.bool)
        self.classes: list[int] = []
        self.colours: list[Tensor] = []

    def box(
        self,
        name: str,
        colour: Tensor | Colour,
        x: Tensor | float,
        top: Tensor | float,
        bottom: Tensor | float,
        width: float,
        present: Tensor,
        foot: float | None = None,
    ) -> None:
        """Paint a rectangle around `x` from `top` to `bottom`; a trapezoid if its `foot` is not as wide as its top."""
        rows, (x, top, bottom) = self._rows(present, x, top, bottom)
        foot = width if foot is None else foot
        half = max(width, foot) / 2
        down, across = self._window(top, bottom), self._window(x - half, x + half)
        depth = (self.axis[down] - top[:, None]) / (bottom - top)[:, None]
        reach = (width + (foot - width) * depth) / 2
        reach[(depth < 0) | (depth > 1)] = -1
        mask = (self.axis[across] - x[:, None]).abs()[:, None, :] <= reach[:, :, None]
        self._fill(name, colour, rows, down, across, mask)

    def ellipse(
        self,
        name: str,
        colour: Tensor | Colour,
        x: Tensor | float,
        y: Tensor | float,
        rx: float,
        ry: float,
        present: Tensor,
        angle: float = 0.0,
    ) -> None:
        """Paint an ellipse of half-axes `rx` and `ry`, turned clockwise by `angle` (radians)."""
        rows, (x, y) = self._rows(present, x, y)
        cos, sin = math.cos(angle), math.sin(angle)
        half_x, half_y = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
        down, across = self._window(y - half_y, y + half_y), self._window(x - half_x, x + half_x)
        dx, dy = (self.axis[across] - x[:, None])[:, None, :], (self.axis[down] - y[:, None])[:, :, None]
        mask = ((dx * cos + dy * sin) / rx).square() + ((dy * cos - dx * sin) / ry).square() <= 1
        self._fill(name, colour, rows, down, across, mask)

    def image(self) -> Tensor:
        """Give the scenes' colours in [-1, 1], averaged over the samples of a pixel: (n, 3, R, R)."""
        n, samples = len(self.index), len(self.axis)
        palette = torch.stack(self.colours, dim=2) * self.light[:, None, None]  # (n, 3, parts)
        flat = self.index.flatten(1).long()
        colours = palette.clamp(0, 1).gather(2, flat[:, None, :].expand(-1, 3, -1))
        return F.avg_pool2d(colours.view(n, 3, samples, samples), SAMPLES).mul_(2).sub_(1)

    def labels(self) -> Tensor:
        """Give the most frequent class of each pixel's samples, the later class on a tie: (n, R, R)."""
        return majority(torch.tensor(self.classes)[self.index.long()], len(CLASSES))

    def _rows(self, present: Tensor, *values: Tensor | float) -> tuple[Tensor, list[Tensor]]:
        """Give the scenes in which a part is, and the values there."""
        rows = present.nonzero()[:, 0]
        return rows, [torch.as_tensor(value).expand(len(present))[rows] for value in values]

    def _window(self, low: Tensor, high: Tensor) -> slice:
        """Give the samples between the lowest and the highest of all scenes: only there can the part be."""
        if len(low) == 0:
            return slice(0, 0)
        ends = torch.stack([low.min(), high.max()]) * len(self.axis)
        first, last = ends.clamp(0, len(self.axis)).tolist()
        return slice(math.floor(first), math.ceil(last))

    def _fill(self, name: str, colour: Tensor | Colour, rows: Tensor, down: slice, across: slice, mask: Tensor) -> None:
        part = len(self.classes)
        self.classes.append(CLASSES.index(name))
        self.colours.append(torch.as_tensor(colour).expand(len(self.index), 3))
        window = self.index[:, down, across]
        window[rows] = torch.where(mask, torch.tensor(part, dtype=torch.uint8), window[rows])


def _scene(z: Tensor, resolution: int, furnished: bool = True) -> _Canvas:
    plan = _Plan(z)
    canvas = _Canvas(len(z), resolution, plan.light)
    always = canvas.everywhere
    horizon = 0.66
    canvas.box("wall", plan.wall, 0.5, 0, 1, 1, always)
    canvas.box("floor", plan.floor, 0.5, horizon, 1, 1, always)
    canvas.box("wall", plan.wall * 0.4 + 0.6, 0.5, horizon - THIN, horizon, 1, always)  # the skirting
    if not furnished:
        return canvas
    for x, y, holds in zip(plan.place_x, plan.place_y, plan.holds, strict=True):
        winner = holds.argmax(dim=1)
        for number, paint_it in enumerate((_window, _painting, _shelf, _mirror)):
            paint_it(canvas, plan, x, y, winner == number)
    _lamp(canvas, plan)
    _rug(canvas, plan)
    _plant(canvas, plan)
    _floor_lamp(canvas, plan)
    _table(canvas, plan)
    _armchair(canvas, plan)
    _stool(canvas, plan)
    _bench(canvas, plan)
    return canvas


def _window(canvas: _Canvas, plan: _Plan, x: Tensor, y: Tensor, present: Tensor) -> None:
    width, height = 0.32, 0.33
    canvas.box("window", (0.98, 0.98, 0.97), x, y - height / 2, y + height / 2, width, present)
    pane, tall = (width - 3 * THIN) / 2, (height - 3 * THIN) / 2
    for step in (-1, 1):
        at = x + step * (pane + THIN) / 2
        canvas.box("window", plan.sky, at, y - THIN / 2 - tall, y - THIN / 2, pane, present)
        canvas.box("window", plan.sky * 0.6 + 0.3, at, y + THIN / 2, y + THIN / 2 + tall, pane, present)


def _painting(canvas: _Canvas, plan: _Plan, x: Tensor, y: Tensor, present: Tensor) -> None:
    width, height = 0.32, 0.28
    top, bottom = y - height / 2 + THIN, y + height / 2 - THIN
    canvas.box("painting", (0.24, 0.15, 0.10), x, y - height / 2, y + height / 2, width, present)
    canvas.box("painting", plan.canvas, x, top, bottom, width - 2 * THIN, present)
    canvas.ellipse("painting", (0.98, 0.97, 0.86), x + 0.06, top + 0.055, 0.032, 0.032, present)  # a sun
    canvas.box("painting", (0.36, 0.22, 0.42), x - 0.035, top + 0.035, bottom, 0.0, present, foot=0.15)  # over a hill


def _shelf(canvas: _Canvas, plan: _Plan, x: Tensor, y: Tensor, present: Tensor) -> None:
    width, height, books = 0.32, 0.34, 4
    bay, thick = (height - 3 * THIN) / 2, (width - 2 * THIN) / books
    red, blue, yellow, green = (0.78, 0.20, 0.18), (0.20, 0.36, 0.70), (0.93, 0.78, 0.30), (0.24, 0.55, 0.36)
    canvas.box("shelf", plan.wood, x, y - height / 2, y + height / 2, width, present)
    for bottom, row in ((y - THIN / 2, (red, yellow, blue, green)), (y + THIN / 2 + bay, (blue, green, red, yellow))):
        canvas.box("shelf", plan.wood * 0.45, x, bottom - bay, bottom, width - 2 * THIN, present)
        for number, colour in enumerate(row):
            at = x + (number - (books - 1) / 2) * thick
            canvas.box("shelf", colour, at, bottom - bay + 0.02 * (number % 2), bottom, thick, present)


def _mirror(canvas: _Canvas, plan: _Plan, x: Tensor, y: Tensor, present: Tensor) -> None:
    rx, ry = 0.13, 0.17
    canvas.ellipse("mirror", plan.rim, x, y, rx, ry, present)
    canvas.ellipse("mirror", (0.72, 0.82, 0.88), x, y, rx - THIN, ry - THIN, present)
    canvas.ellipse("mirror", (0.97, 0.99, 1.0), x - 0.015, y - 0.03, 0.06, THIN / 2, present, angle=-1.0)  # a glint


def _lamp(canvas: _Canvas, plan: _Plan) -> None:
    x, foot, present = plan.middle_x, plan.lamp_foot, plan.has_lamp
    canvas.ellipse("lamp", (1.0, 0.95, 0.62), x, foot, 0.05, 0.05, present)
    canvas.box("lamp", (0.12, 0.12, 0.14), x, 0.0, foot - 0.10, THIN, present)
    canvas.box("lamp", (0.10, 0.36, 0.38), x, foot - 0.14, foot, 0.08, present, foot=0.19)


def _rug(canvas: _Canvas, plan: _Plan) -> None:
    canvas.ellipse("rug", plan.rug * 0.3 + 0.62, plan.middle_x, 0.885, 0.32, 0.10, plan.has_rug)
    canvas.ellipse("rug", plan.rug, plan.middle_x, 0.885, 0.32 - 0.06, 0.10 - THIN, plan.has_rug)


def _plant(canvas: _Canvas, plan: _Plan) -> None:
    x, present, soil = plan.corner_x, plan.is_plant, 0.72
    for lean, length, shade in (
        (-0.95, 0.18, 0.75),
        (0.95, 0.18, 0.75),
        (-0.45, 0.25, 1.0),
        (0.45, 0.25, 1.0),
        (0, 0.27, 0.85),
    ):
        tip_x, tip_y = x + math.sin(lean) * length / 2, soil - math.cos(lean) * length / 2
        canvas.ellipse("plant", plan.leaf * shade, tip_x, tip_y, length / 2, 0.036, present, angle=lean - math.pi / 2)
    canvas.box("plant", plan.pot * 0.85, x, soil, 0.90, 0.14, present, foot=0.10)
    canvas.box("plant", plan.pot, x, soil, soil + THIN, 0.17, present)


def _floor_lamp(canvas: _Canvas, plan: _Plan) -> None:
    x, present = plan.corner_x, ~plan.is_plant
    canvas.ellipse("floor lamp", (0.20, 0.18, 0.18), x, 0.88, 0.08, 0.03, present)
    canvas.box("floor lamp", (0.20, 0.18, 0.18), x, 0.55, 0.88, THIN, present)
    canvas.box("floor lamp", (0.99, 0.86, 0.50), x, 0.43, 0.58, 0.11, present, foot=0.20)


def _table(canvas: _Canvas, plan: _Plan) -> None:
    x, present, top = plan.middle_x, ~plan.is_chair, 0.65
    honey = torch.tensor((0.86, 0.62, 0.34))
    canvas.ellipse("table", honey * 0.8, x, 0.88, 0.12, 0.035, present)
    canvas.box("table", honey * 0.8, x, top, 0.88, 0.07, present)
    canvas.ellipse("table", honey * 0.7, x, top + 0.035, 0.21, 0.05, present)
    canvas.ellipse("table", honey, x, top, 0.21, 0.05, present)
    for step, colour in ((-1, (0.84, 0.22, 0.14)), (1, (0.95, 0.60, 0.12))):  # a bowl of fruit
        canvas.ellipse("table", colour, x + 0.03 * step, 0.575, 0.035, 0.035, present)
    canvas.box("table", (0.94, 0.94, 0.92), x, 0.58, 0.645, 0.16, present, foot=0.08)


_CHAIR_COLOURS = ((0.80, 0.17, 0.15), (0.94, 0.68, 0.14), (0.13, 0.38, 0.74))
_LEG = (0.22, 0.15, 0.10)


def _armchair(canvas: _Canvas, plan: _Plan) -> None:
    colour, x = torch.tensor(_CHAIR_COLOURS)[plan.colour], plan.middle_x
    present = plan.is_chair & (plan.kind == 0)
    front = present & (plan.pose == 0)
    for step in (-1, 1):
        canvas.box("chair", _LEG, x + step * 0.125, 0.85, 0.91, THIN, present)
    canvas.ellipse("chair", colour * 0.8, x, 0.56, 0.13, 0.06, front)
    canvas.box("chair", colour * 0.8, x, 0.56, 0.80, 0.26, front)
    canvas.box("chair", colour, x, 0.71, 0.79, 0.22, front)
    canvas.box("chair", colour * 0.6, x, 0.79, 0.86, 0.24, front)
    for step in (-1, 1):
        canvas.ellipse("chair", colour, x + step * 0.135, 0.67, 0.04, 0.035, front)
        canvas.box("chair", colour, x + step * 0.135, 0.67, 0.86, 0.08, front)
    for number, facing in ((1, -1.0), (2, 1.0)):
        turned = present & (plan.pose == number)
        canvas.ellipse("chair", colour * 0.8, x - facing * 0.115, 0.55, 0.05, 0.045, turned)
        canvas.box("chair", colour * 0.8, x - facing * 0.115, 0.55, 0.80, 0.10, turned)
        canvas.box("chair", colour * 0.6, x, 0.76, 0.86, 0.32, turned)
        canvas.box("chair", colour * 0.8, x + facing * 0.03, 0.70, 0.77, 0.26, turned)
        canvas.box("chair", colour, x + facing * 0.03, 0.66, 0.72, 0.24, turned)


def _stool(canvas: _Canvas, plan: _Plan) -> None:
    colour, x = torch.tensor(_CHAIR_COLOURS)[plan.colour], plan.middle_x
    present = plan.is_chair & (plan.kind == 1)
    seat = torch.tensor((0.64, 0.69, 0.74))[plan.pose]  # a high one, and lower ones
    for step in (-1, 0, 1):
        canvas.box("chair", _LEG, x + step * 0.09, seat, 0.91 if step else 0.93, THIN, present)
    canvas.box("chair", colour * 0.7, x, seat, seat + 0.05, 0.25, present)
    canvas.ellipse("chair", colour * 0.7, x, seat + 0.05, 0.125, 0.03, present)
    canvas.ellipse("chair", colour, x, seat, 0.125, 0.045, present)


def _bench(canvas: _Canvas, plan: _Plan) -> None:
    colour, x = torch.tensor(_CHAIR_COLOURS)[plan.colour], plan.middle_x
    present = plan.is_chair & (plan.kind == 2)
    for step in (-1, 1):
        canvas.box("chair", _LEG, x + step * 0.18, 0.80, 0.91, THIN, present)
        raised = present & ((plan.pose == 0) | (plan.pose == (1 if step < 0 else 2)))  # both ends, the left, the right
        canvas.ellipse("chair", colour * 0.8, x + step * 0.20, 0.63, 0.04, 0.035, raised)
        canvas.box("chair", colour * 0.8, x + step * 0.20, 0.63, 0.78, 0.08, raised)
    canvas.box("chair", colour, x, 0.72, 0.78, 0.46, present)
    canvas.box("chair", colour * 0.7, x, 0.77, 0.83, 0.46, present)


def majority(classes: Tensor, count: int) -> Tensor:
    """Give the most frequent of `count` classes in each block of samples; the later on a tie (objects over background)."""
    n, height, width = classes.shape
    blocks = classes.view(n, height // SAMPLES, SAMPLES, width // SAMPLES, SAMPLES)
    # A block has 9 samples, so each class's count fits into four bits of one integer.
    packed = (torch.ones((), dtype=torch.int64) << (4 * blocks)).sum(dim=(2, 4))
    best = torch.zeros_like(packed)
    for c in range(count):
        best = torch.maximum(best, ((packed >> (4 * c)) & 15) * count + c)
    return best % count
