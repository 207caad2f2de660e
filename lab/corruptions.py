"""What may go wrong with a picture of a room: imperfections that keep the labels, corruptions that void them.

A segmenter that judges a generator's pictures must tell two things apart. A sample that is a little blurred,
wobbly or off in colour still shows a window: `imperfect` makes such pictures, and the labels stay. A rim,
glow or texture that no room contains is not a window, however much it looks like the nearest thing to one:
the `TRAINED` corruptions make those, and what they visibly change becomes `unknown`. The `HELD_OUT`
corruptions are of other kinds, used only to measure whether the segmenter learned "nothing I know" rather
than a list.

All work on batches and draw from one `torch.Generator`. Images are (n, 3, H, W) in [-1, 1], labels (n, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

VISIBLE = 0.2  # a pixel is corrupted if a channel changed by more than this: a tenth of the whole range
IGNORED = -100  # label of pixels that changed, but hardly: neither right nor wrong
_FAINT = 0.05  # a change below this leaves the label as it was


class Draw:
    """Random numbers for a batch of `n` pictures of `size` pixels."""

    def __init__(self, generator: torch.Generator, n: int, size: int):
        self.generator, self.n, self.size = generator, n, size
        axis = torch.linspace(-1 + 1 / size, 1 - 1 / size, size)
        self.y, self.x = torch.meshgrid(axis, axis, indexing="ij")  # positions of pixels, -1 to 1

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> torch.Tensor:
        """One number per picture, shaped to meet (n, 3, H, W); or of a given shape."""
        return torch.rand(shape or (self.n, 1, 1, 1), generator=self.generator) * (high - low) + low

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal numbers of a shape."""
        return torch.randn(shape, generator=self.generator)

    def chance(self, probability: float) -> torch.Tensor:
        """True with a probability, per picture."""
        return self.uniform() < probability

    def colour(self) -> torch.Tensor:
        """One colour per picture, as often a vivid one as any other: (n, 3, 1, 1)."""
        any_one = self.uniform(-1, 1, self.n, 3, 1, 1)
        return torch.where(self.chance(0.5), any_one, (any_one * 2.5).clamp(-1, 1))

    def field(self, channels: int, cells: int) -> torch.Tensor:
        """Smooth noise with a deviation near 1 and `cells` bumps along each side: (n, channels, H, W)."""
        coarse = self.normal(self.n, channels, cells, cells)
        mode = "bicubic" if cells < 12 else "bilinear"  # finer noise looks as good the quicker way
        return F.interpolate(coarse, size=(self.size, self.size), mode=mode, align_corners=False)

    def texture(self, channels: int) -> torch.Tensor:
        """Noise whose scales are mixed in a different way for each picture: (n, channels, H, W)."""
        scales = (4, 9, 18, 36)
        weights = (self.normal(self.n, len(scales), 1, 1, 1) * 1.5).softmax(dim=1)
        return sum((weights[:, i] * self.field(channels, cells) for i, cells in enumerate(scales)), torch.zeros(()))

    def shape(self, small: float = 0.08, large: float = 0.6) -> torch.Tensor:
        """A turned diamond, ellipse or box somewhere, radii in half image sides: bool (n, 1, H, W)."""
        cx, cy, angle = self.uniform(-1, 1), self.uniform(-1, 1), self.uniform(0, math.pi)
        rx, ry = self.uniform(small, large), self.uniform(small, large)
        u = ((self.x - cx) * torch.cos(angle) + (self.y - cy) * torch.sin(angle)) / rx
        v = ((self.y - cy) * torch.cos(angle) - (self.x - cx) * torch.sin(angle)) / ry
        power = torch.tensor([1.0, 2.0, 2.0, 8.0, 8.0])[(self.uniform() * 5).long().clamp(max=4)]
        return u.abs() ** power + v.abs() ** power <= 1

    def object_mask(self, labels: torch.Tensor) -> torch.Tensor:
        """All pixels of one class, that of a random pixel, background or not: bool (n, 1, H, W)."""
        # Half of the pixels are wall: the best of three draws finds the rarer objects often enough.
        best = torch.zeros(self.n, dtype=labels.dtype)
        for _ in range(3):
            place = (self.uniform(0, 1, self.n) * self.size**2).long().clamp(max=self.size**2 - 1)
            best = torch.maximum(best, labels.flatten(1).gather(1, place[:, None])[:, 0])
        return (labels == best[:, None, None])[:, None]

    def region(self, labels: torch.Tensor) -> torch.Tensor:
        """Where a corruption sits: a shape, a blot or an object's pixels, hard or soft: (n, 1, H, W)."""
        blot = self.field(1, 5) > self.uniform(0.4, 1.3)
        item = grow(self.object_mask(labels).float(), 1) > 0
        choice = self.uniform()
        hard = torch.where(choice < 0.5, self.shape(), torch.where(choice < 0.75, blot, item)).float()
        soft = F.avg_pool2d(hard, 3, 1, 1, count_include_pad=False)
        return torch.where(self.chance(0.5), hard, soft)


def grow(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """Widen the ones of a float mask (n, 1, H, W) by so many pixels on each side."""
    return F.max_pool2d(mask, 2 * pixels + 1, 1, pixels) if pixels else mask


def blur(images: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Blur each picture by a Gaussian of its own `deviation` in pixels, shape (n, 1, 1, 1), at most 2."""
    n, channels, height, width = images.shape
    offsets = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * deviation.view(n, 1).clamp(min=0.05) ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    padded = F.pad(images, (4, 4, 4, 4), mode="replicate").reshape(1, n * channels, height + 8, width + 8)
    padded = F.conv2d(padded, kernel[:, None, None, :], groups=n * channels)
    return F.conv2d(padded, kernel[:, None, :, None], groups=n * channels).view(n, channels, height, width)


def displaced(images: torch.Tensor, dx: torch.Tensor, dy: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """Take each pixel from elsewhere: offsets (n or 1, H, W) in half image sides."""
    n, _, height, width = images.shape
    draw_y = torch.linspace(-1 + 1 / height, 1 - 1 / height, height)[:, None]
    draw_x = torch.linspace(-1 + 1 / width, 1 - 1 / width, width)[None, :]
    grid = torch.stack([(draw_x + dx).expand(n, -1, -1), (draw_y + dy).expand(n, -1, -1)], dim=-1)
    return F.grid_sample(images, grid, mode=mode, padding_mode="reflection", align_corners=False)


# Imperfections: the labels stay


def warped(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Bend picture and labels together, smoothly, by a pixel or two."""
    cells = 4 if draw.uniform(0, 1, 1) < 0.5 else 8
    shift = draw.field(2, cells) * draw.uniform(0, 1.3) * (2 / draw.size)
    dx, dy = shift[:, 0], shift[:, 1]
    bent = displaced(labels[:, None].float(), dx, dy, mode="nearest")[:, 0].round().long()
    return displaced(images, dx, dy), bent


def tinted(images: torch.Tensor, labels: torch.Tensor, draw: Draw, classes: int) -> torch.Tensor:
    """Shift the colour of each class a little, and that of the whole picture: other paint, other light."""
    strength = draw.uniform(0, 0.12)
    per_class = (draw.normal(draw.n, classes, 3) * strength[:, 0]).gather(
        1, labels.flatten(1)[:, :, None].expand(-1, -1, 3)
    )
    shift = per_class.transpose(1, 2).view_as(images)
    mixed = torch.einsum("nij,njhw->nihw", torch.eye(3) + 0.04 * draw.normal(draw.n, 3, 3), images)
    return mixed * draw.uniform(0.88, 1.1) + draw.uniform(-0.08, 0.08) + shift


def imperfect(images: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Degrade pictures as a generator does: blotches, then coarse detail, blur, ringing or noise."""
    images = images + draw.field(3, 18) * draw.uniform(0, 0.06)
    images = images + draw.field(3, 7) * draw.uniform(0, 0.06)
    fate = draw.uniform(0, 1, draw.n)

    rows = (fate < 0.12).nonzero()[:, 0]
    if len(rows):
        coarse = F.interpolate(images[rows], size=(draw.size * 5 // 8,) * 2, mode="area")
        images[rows] = F.interpolate(coarse, size=images.shape[2:], mode="bilinear", align_corners=False)
    rows = ((fate >= 0.12) & (fate < 0.65)).nonzero()[:, 0]
    if len(rows):
        soft = blur(images[rows], draw.uniform(0.2, 1.1)[rows])
        ringing = images[rows] * 1.6 - soft * 0.6
        images[rows] = torch.where(fate[rows, None, None, None] < 0.5, soft, ringing)
    rows = ((fate < 0.25) | (fate > 0.75)).nonzero()[:, 0]
    noise = draw.normal(len(rows), *images.shape[1:]) * draw.uniform(0, 0.05)[rows]
    return images.index_add(0, rows, noise)


def worn(images: torch.Tensor, labels: torch.Tensor, draw: Draw, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply all imperfections: bent and tinted (labels bent along), degraded, in [-1, 1] again."""
    images, labels = warped(images, labels, draw)
    return imperfect(tinted(images, labels, draw, classes), draw).clamp(-1, 1), labels


# Corruptions that the segmenter is trained on. Each takes images and labels, and gives the corrupted images.

Corruption = Callable[[torch.Tensor, torch.Tensor, Draw], torch.Tensor]


def _over(images: torch.Tensor, paint: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    return images + (paint - images) * alpha


def flat(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """One colour in a region, opaque or not."""
    return _over(images, draw.colour(), draw.region(labels) * draw.uniform(0.5, 1.4).clamp(max=1))


def gradient(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """One colour turning into another."""
    angle = draw.uniform(0, 2 * math.pi)
    along = torch.sigmoid((draw.x * torch.cos(angle) + draw.y * torch.sin(angle)) * draw.uniform(2, 8))
    return _over(images, _over(draw.colour(), draw.colour(), along), draw.region(labels))


def texture(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Noise of mixed scales around a colour, or laid over what is there."""
    noise = draw.texture(3) * torch.where(draw.chance(0.5), torch.ones(1, 3, 1, 1), draw.colour())
    noise = noise * draw.uniform(0.4, 2.5)
    ground = torch.where(draw.chance(0.5), draw.colour().expand_as(images), images)
    return _over(images, ground + noise, draw.region(labels))


def grain(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Normal noise, pixel by pixel, in colour or grey."""
    colour, grey = draw.normal(*images.shape), draw.normal(draw.n, 1, draw.size, draw.size)
    noise = torch.where(draw.chance(0.5), colour, grey.expand_as(colour)) * draw.uniform(0.3, 1.2)
    return images + noise * draw.region(labels)


def glow(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Light, or darkness, that falls off around a point or around an object."""
    distance = torch.sqrt(
        ((draw.x - draw.uniform(-1, 1)) / draw.uniform(0.1, 0.5)) ** 2
        + ((draw.y - draw.uniform(-1, 1)) / draw.uniform(0.1, 0.5)) ** 2
    )
    point = torch.exp(-(distance ** draw.uniform(1, 3)))
    item = blur(blur(grow(draw.object_mask(labels).float(), 1), draw.uniform(1, 2)), draw.uniform(1, 2))
    alpha = torch.where(draw.chance(0.6), point, item)
    bright = torch.where(draw.chance(0.75), draw.colour() * 0.4 + 0.8, draw.colour())
    added = images + bright * draw.uniform(0.6, 1.8) * alpha
    return torch.where(draw.chance(0.5), added, _over(images, bright, (alpha * 1.4).clamp(max=1)))


def rim(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """The outline of an object or a shape, shining or dark, one to five pixels wide, whole or broken."""
    mask = torch.where(draw.chance(0.7), draw.object_mask(labels), draw.shape(0.15, 0.5)).float()
    outer = torch.where(draw.chance(0.5), grow(mask, 1), grow(mask, 2))
    inside = 1 - torch.where(draw.chance(0.5), grow(1 - mask, 1), grow(1 - mask, 2))
    band = outer - torch.where(draw.chance(0.4), inside, mask)
    band = torch.where(draw.chance(0.5), band, (blur(band, draw.uniform(0.4, 1.2)) * 1.5).clamp(max=1))
    band = band * (draw.field(1, 6) > torch.where(draw.chance(0.5), -9.0, -0.3)).float()
    paint = torch.where(draw.chance(0.6), draw.colour() * 0.5 + 0.9, draw.colour())
    paint = paint + draw.field(3, 10) * draw.uniform(0, 0.6) * draw.chance(0.5)
    return _over(images, paint, band)


def smear(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """The picture drawn out along a line, as paint under a thumb."""
    angle, share, at = draw.uniform(0, 2 * math.pi), draw.uniform(0.75, 1), draw.uniform(-0.8, 0.8)
    cos, sin = torch.cos(angle), torch.sin(angle)
    along = (draw.x * cos + draw.y * sin - at) * share
    pulled = displaced(images, (-along * cos)[:, 0], (-along * sin)[:, 0])
    return _over(images, pulled, draw.region(labels))


def melt(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Every pixel from some way off, the way changing from place to place."""
    shift = torch.where(draw.chance(0.5), draw.field(2, 6), draw.field(2, 14)) * draw.uniform(0.12, 0.4)
    return _over(images, displaced(images, shift[:, 0], shift[:, 1]), draw.region(labels))


def scribble(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Winding lines (where smooth noise passes through zero), one to three pixels wide."""
    field = torch.where(draw.chance(0.5), draw.field(1, 4), draw.field(1, 8))
    dy, dx = torch.gradient(field, dim=(2, 3))
    distance = field.abs() / torch.sqrt(dx**2 + dy**2 + 1e-6)
    line = (draw.uniform(0.6, 1.6) - distance + 0.5).clamp(0, 1)
    return _over(images, draw.colour(), line * (draw.region(labels) > 0))


def foreign(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """A piece of another room upside down, opaque or shining through."""
    other = images.roll(1, 0).flip(2)
    return _over(images, other, draw.region(labels) * draw.uniform(0.5, 1.3).clamp(max=1))


TRAINED: dict[str, Corruption] = {
    kind.__name__: kind for kind in (flat, gradient, texture, grain, glow, rim, smear, melt, scribble, foreign)
}


# Corruptions that it never sees until it is measured


def _patch(draw: Draw) -> torch.Tensor:
    """A disc or box of 8 to 26 pixels across (at 64 px), wholly in the picture: float (n, 1, H, W)."""
    rx, ry = draw.uniform(0.25, 0.8) / 2, draw.uniform(0.25, 0.8) / 2
    cx, cy = draw.uniform(-1, 1) * (1 - rx), draw.uniform(-1, 1) * (1 - ry)
    u, v = ((draw.x - cx) / rx).abs(), ((draw.y - cy) / ry).abs()
    return torch.where(draw.chance(0.5), torch.maximum(u, v), torch.sqrt(u**2 + v**2)).le(1).float()


def _two_colours(draw: Draw) -> tuple[torch.Tensor, torch.Tensor]:
    """A dark and a light colour."""
    return draw.uniform(-1, -0.2, draw.n, 3, 1, 1), draw.uniform(0.2, 1, draw.n, 3, 1, 1)


def checkerboard(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Squares of two colours, one to four pixels wide."""
    side = 2 / draw.size * draw.uniform(1, 5).floor()
    odd = ((draw.x + 1) / side).floor() + ((draw.y + 1) / side).floor()
    dark, light = _two_colours(draw)
    return _over(images, torch.where(odd % 2 == 0, dark, light), _patch(draw))


def stripes(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Parallel bars of two colours, 3 to 10 pixels from one to the next, at any angle."""
    angle, period = draw.uniform(0, math.pi), draw.uniform(3, 10) * 2 / draw.size
    wave = torch.sin((draw.x * torch.cos(angle) + draw.y * torch.sin(angle)) * 2 * math.pi / period)
    dark, light = _two_colours(draw)
    return _over(images, torch.where(wave < 0, dark, light), _patch(draw))


def halftone(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """A lattice of dots on paper, 4 to 7 pixels apart."""
    pitch = draw.uniform(4, 7) * 2 / draw.size
    u, v = (draw.x / pitch) % 1 - 0.5, (draw.y / pitch) % 1 - 0.5
    dark, light = _two_colours(draw)
    return _over(images, torch.where(u**2 + v**2 < 0.11, dark, light), _patch(draw))


def rings(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Concentric circles of one colour with the room seen between them."""
    distance = torch.sqrt((draw.x - draw.uniform(-0.6, 0.6)) ** 2 + (draw.y - draw.uniform(-0.6, 0.6)) ** 2)
    period = draw.uniform(6, 12) * 2 / draw.size
    circle = (distance % period < period * 0.35) & (distance < draw.uniform(0.35, 0.7))
    return _over(images, draw.colour(), circle.float())


def swirl(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """The picture turned around a point, most at the middle."""
    x, y = draw.x - draw.uniform(-0.6, 0.6), draw.y - draw.uniform(-0.4, 0.6)
    turn = draw.uniform(2, 5) * torch.where(draw.chance(0.5), 1.0, -1.0)
    turn = turn * (1 - torch.sqrt(x**2 + y**2) / draw.uniform(0.35, 0.6)).clamp(min=0)
    dx = x * torch.cos(turn) - y * torch.sin(turn) - x
    dy = x * torch.sin(turn) + y * torch.cos(turn) - y
    return displaced(images, dx[:, 0], dy[:, 0])


def negative(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """A patch with its colours inverted."""
    return _over(images, -images, _patch(draw))


def solarized(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """A patch whose brightness is folded: what was middling becomes extreme."""
    return _over(images, torch.cos(images * draw.uniform(3, 6)), _patch(draw))


def shuffled(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """A patch whose pixels are taken from anywhere in the picture."""
    places = torch.randperm(draw.size**2, generator=draw.generator)
    return _over(images, images.flatten(2)[:, :, places].view_as(images), _patch(draw))


def salt_and_pepper(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Black and white pixels strewn over a patch, 15 to 50 % of it."""
    strewn = draw.uniform(0, 1, draw.n, 1, draw.size, draw.size)
    share = draw.uniform(0.15, 0.5)
    white = (strewn < share / 2).float() * 2 - 1
    return _over(images, white.expand_as(images), _patch(draw) * (strewn < share))


def pinwheel(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Sectors of two colours around a point."""
    angle = torch.atan2(draw.y - draw.uniform(-0.6, 0.6), draw.x - draw.uniform(-0.6, 0.6))
    wave = torch.sin(angle * draw.uniform(3, 9).floor() + draw.uniform(0, math.pi))
    dark, light = _two_colours(draw)
    return _over(images, torch.where(wave < 0, dark, light), _patch(draw))


def hatching(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Lines of one colour crossing each other, the room seen between them."""
    pitch, angle = draw.uniform(4, 8) * 2 / draw.size, draw.uniform(0, math.pi)
    u = draw.x * torch.cos(angle) + draw.y * torch.sin(angle)
    v = draw.y * torch.cos(angle) - draw.x * torch.sin(angle)
    line = (u / pitch % 1 < 0.3) | (v / pitch % 1 < 0.3)
    return _over(images, draw.colour(), _patch(draw) * line)


def mosaic(images: torch.Tensor, labels: torch.Tensor, draw: Draw) -> torch.Tensor:
    """Square tiles of 4 pixels, each of any colour."""
    tiles = draw.uniform(-1, 1, draw.n, 3, draw.size // 4, draw.size // 4)
    return _over(images, tiles.repeat_interleave(4, 2).repeat_interleave(4, 3), _patch(draw))


HELD_OUT: dict[str, Corruption] = {
    kind.__name__: kind
    for kind in (
        checkerboard, stripes, halftone, rings, swirl, negative, solarized, shuffled, salt_and_pepper,
        pinwheel, hatching, mosaic,
    )
}  # fmt: skip


def change(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Give the largest change of a channel at each pixel, after clamping to [-1, 1]: (n, H, W), 0 to 2."""
    return (after.clamp(-1, 1) - before.clamp(-1, 1)).abs().amax(dim=1)


def relabelled(labels: torch.Tensor, changed: torch.Tensor, unknown: int) -> torch.Tensor:
    """Mark what changed visibly as `unknown`, and what changed hardly as `IGNORED`."""
    labels = torch.where(changed > _FAINT, IGNORED, labels)
    return torch.where(changed > VISIBLE, unknown, labels)


def training_batch(
    images: torch.Tensor, labels: torch.Tensor, classes: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make rendered scenes into a training batch.

    Of the pictures, 15 % stay as rendered, 35 % carry imperfections only, and 50 % some corruptions as well
    (mostly one or two).

    Parameters
    ----------
    images : Tensor, float32, shape (n, 3, H, H)
        Rendered scenes in [-1, 1].
    labels : Tensor, int64, shape (n, H, H)
        Their labels, 0 to `classes` - 1.
    classes : int
        How many classes the scenes have; `unknown` is the label after them.
    generator : torch.Generator
        Where all random numbers come from.

    Returns
    -------
    images : Tensor, float32, shape (n, 3, H, H)
        In [-1, 1].
    labels : Tensor, int64, shape (n, H, H)
        0 to `classes`, or `IGNORED`.
    """
    n, size = len(images), images.shape[-1]
    draw = Draw(generator, n, size)
    mirrored = draw.chance(0.5)
    images = torch.where(mirrored, images.flip(3), images)
    labels = torch.where(mirrored[:, 0], labels.flip(2), labels)
    fate = draw.uniform(0, 1, n)
    used = (fate >= 0.15).nonzero()[:, 0]
    bent = used[draw.uniform(0, 1, len(used)) < 0.6]
    if len(used):
        images[used] = tinted(images[used], labels[used], Draw(generator, len(used), size), classes)
    if len(bent):
        images[bent], labels[bent] = warped(images[bent], labels[bent], Draw(generator, len(bent), size))

    # Each kind takes its share of the pictures, in an order that changes; most pictures meet one kind, some
    # three.
    corrupted = images.clone()
    kinds = list(TRAINED.values())
    meets = (fate[:, None] >= 0.5) & (draw.uniform(0, 1, n, len(kinds)) < 1.8 / len(kinds))
    for k in torch.randperm(len(kinds), generator=generator).tolist():
        rows = meets[:, k].nonzero()[:, 0]
        if len(rows):
            some = Draw(generator, len(rows), size)
            corrupted[rows] = kinds[k](corrupted[rows], labels[rows], some).clamp(-1, 1)
    labels = relabelled(labels, change(images, corrupted), classes)

    if len(used):
        corrupted[used] = imperfect(corrupted[used], Draw(generator, len(used), size))
    return corrupted.clamp(-1, 1), labels
