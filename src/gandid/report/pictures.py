"""Pictures: pixels as data URIs and files, outlines of masks as paths, differences and maps. No chart is drawn here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

# Specks smaller than this are left out of outlines: they are noise of the segmenter, and clutter.
SPECK = 4
# Larger images are stored at this width, for a page of hundreds of them shall be mailed.
WIDEST = 256
# Up to this width an image is stored without loss.
LOSSLESS = 96
# Without loss, smaller than an optimized PNG and in a fifth of its time.
FAST: dict[str, int | bool] = {"lossless": True, "method": 1, "quality": 20}
# What vanished of an object, and what appeared in its place: seen on bright and on dark, and told apart by the colour-blind.
GONE, CAME = "#19e3ff", "#ffe119"
# What is strong in a difference or a map, and what is strongly negative.
STRONG, NEGATIVE = "#d55e00", "#0072b2"


class Change(NamedTuple):
    """What an edit did to one image, as masks of shape (H, W)."""

    vanished: np.ndarray
    """The target's original pixels that no longer carry its label."""
    appeared: np.ndarray
    """Pixels that now carry an object's class and did not before."""
    original: int
    """The target's original pixels, counted."""
    gone: float
    """Share of them that vanished."""
    painted: dict[str, float]
    """By other object, the share of them that it now covers; largest first, none that covers nothing."""


def change(before: np.ndarray, after: np.ndarray, classes: list[str], objects: list[str], target: str) -> Change:
    """Compare the label maps of an original and of an edited image, each of shape (H, W)."""
    index = classes.index(target)
    original = before == index
    whole = max(int(original.sum()), 1)
    numbers = [classes.index(name) for name in objects if name in classes]
    appeared = np.isin(after, numbers) & (after != before)
    vanished = original & (after != index)
    shares = {classes[k]: float((original & (after == k)).sum() / whole) for k in numbers if k != index}
    painted = {name: share for name, share in sorted(shares.items(), key=lambda item: -item[1]) if share}
    return Change(vanished, appeared, int(original.sum()), float(vanished.sum() / whole), painted)


def segments(mask: np.ndarray, speck: int = SPECK) -> list[tuple[int, int, int, int]]:
    """Edges of a mask as straight pieces along pixel borders: (x0, y0, x1, y1), each as long as it goes.

    Connected areas of fewer than `speck` pixels are left out.
    """
    areas, _ = ndimage.label(mask)
    sizes = np.bincount(areas.ravel())
    kept = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.int8)
    kept[1:-1, 1:-1] = (sizes[areas] >= speck) & mask
    found = []
    for edges, upright in ((kept[1:] != kept[:-1], False), ((kept[:, 1:] != kept[:, :-1]).T, True)):
        # `edges[i]` is the border above line i; a run of it is one piece.
        steps = np.diff(edges.view(np.int8), axis=1)
        for (c, a), (_, b) in zip(np.argwhere(steps == 1).tolist(), np.argwhere(steps == -1).tolist(), strict=True):
            found.append((c, a, c, b) if upright else (a, c, b, c))
    return found


def path(mask: np.ndarray) -> str:
    """The outline of a mask as the data of an SVG path, in pixels."""
    return "".join(f"M{x0} {y0}{'V' if x0 == x1 else 'H'}{y1 if x0 == x1 else x1}" for x0, y0, x1, y1 in segments(mask))


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where two images (H, W, 3) of uint8 differ: `STRONG` where they do most, over a pale grey of the first."""
    grey = one.astype(float).mean(axis=-1, keepdims=True)
    ground = np.repeat(150 + 0.4 * grey, 3, axis=-1)
    gap = np.abs(one.astype(float) - other.astype(float)).max(axis=-1, keepdims=True)
    # What 8 bits may differ by alone is no difference; a hundredth of the pixels may be off the scale.
    alpha = np.clip(gap / max(float(np.percentile(gap, 99)), 24.0), 0, 1)
    return (ground * (1 - alpha) + _ink(STRONG) * alpha).round().astype(np.uint8)


def signed_heat(values: np.ndarray) -> str:
    """A data URI of a map with values in [-1, 1]: two colours, the more opaque the stronger; one pixel per position."""
    alpha = (np.clip(np.abs(np.nan_to_num(values)), 0, 1) * 255).round().astype(np.uint8)
    ink = np.array([_ink(STRONG), _ink(NEGATIVE)], np.uint8)[(values < 0).astype(int)]
    return _uri(Image.fromarray(np.concatenate([ink, alpha[..., None]], axis=-1)), "WEBP", **FAST)


def heat(values: np.ndarray, low: float, high: float, colours: str) -> str:
    """A data URI of a map of shape (h, w) in matplotlib's `colours` from `low` to `high`; one pixel per position."""
    scaled = np.clip((np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12), 0, 1)
    return _uri(Image.fromarray((_colormap(colours, scaled) * 255).round().astype(np.uint8)), "WEBP", **FAST)


def gradient(colours: str) -> str:
    """The same colours as a CSS gradient, for the bar beside a map."""
    rgb = (_colormap(colours, np.linspace(0, 1, 17)) * 255).round().astype(int)
    return "linear-gradient(90deg," + ",".join("#{:02x}{:02x}{:02x}".format(*ink) for ink in rgb) + ")"


def upsampled(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h, w) brought to `size` bilinearly, pixels taken as areas (PyTorch's ``align_corners=False``)."""
    factors = size[0] / values.shape[0], size[1] / values.shape[1]
    return ndimage.zoom(values, factors, order=1, mode="nearest", grid_mode=True)


def picture(image: np.ndarray) -> str:
    """A data URI of an image of shape (H, W, 3), uint8: as it is if small, else scaled down and with a little loss."""
    found = Image.fromarray(image)
    if found.width <= LOSSLESS:
        return _uri(found, "WEBP", **FAST)
    if found.width > WIDEST:
        found = found.resize((WIDEST, round(WIDEST * found.height / found.width)), Image.Resampling.LANCZOS)
    return _uri(found, "WEBP", quality=90)


def enlarged(image: np.ndarray, side: int) -> np.ndarray:
    """An image brought to about `side` pixels by a whole factor, so that nothing blurs it; a large one is thinned out."""
    longest = max(image.shape[:2])
    factor, every = max(1, round(side / longest)), max(1, longest // side)
    return image[::every, ::every].repeat(factor, axis=0).repeat(factor, axis=1)


def write_mosaic(path: Path, rows: Iterable[Iterable[np.ndarray]], heads: Sequence[str], side: int = 256) -> None:
    """Write images (H, W, 3) of one size as one PNG, in rows, enlarged without blur under the heads of their columns."""
    large = [[enlarged(image, side) for image in row] for row in rows]
    height, width = large[0][0].shape[:2]
    gap, head = 8, 30
    sheet = Image.new("RGB", (len(heads) * (width + gap) - gap, head + len(large) * (height + gap) - gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, text in enumerate(heads):
        pen.text((column * (width + gap), 6), text, fill="#1c1e22", font=font)
    for line, row in enumerate(large):
        for column, image in enumerate(row):
            sheet.paste(Image.fromarray(image), (column * (width + gap), head + line * (height + gap)))
    sheet.save(path, compress_level=4)


def _colormap(colours: str, values: np.ndarray) -> np.ndarray:
    import matplotlib  # a second to load, which the report does not need

    return np.asarray(matplotlib.colormaps[colours](values)[..., :3])


def _ink(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], float)


def _uri(image: Image.Image, form: str, **options: int | bool) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
