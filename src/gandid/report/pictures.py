"""Small pictures for the page: pixels as data URIs, outlines of masks as paths. No chart library here."""

import base64
import io
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from PIL import Image
from scipy import ndimage

# Specks smaller than this are left out of outlines: they are noise of the segmenter, and clutter.
SPECK = 4
# Larger images are shown at this width: at 250 px on screen more would only weigh.
WIDEST = 192
# Up to this width an image is stored losslessly; a page of 200 larger PNGs would be too heavy to mail.
LOSSLESS = 96
# The longest side of a unit's images, of which a page has hundreds.
THUMBNAIL = 128


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
    """By other object, the share of the target's original pixels that it now covers; largest first."""


def change(before: np.ndarray, after: np.ndarray, classes: list[str], objects: list[str], target: str) -> Change:
    """Compare the label maps of an original and of an edited image, each of shape (H, W)."""
    index = classes.index(target)
    original = before == index
    count = int(original.sum())
    whole = max(count, 1)
    numbers = [classes.index(name) for name in objects]
    appeared = np.isin(after, numbers) & (after != before)
    vanished = original & (after != index)
    shares = {classes[k]: float((original & (after == k)).sum() / whole) for k in numbers if k != index}
    ordered = dict(sorted(shares.items(), key=lambda item: -item[1]))
    return Change(vanished, appeared, count, float(vanished.sum() / whole), ordered)


def segments(mask: np.ndarray, speck: int = SPECK) -> list[tuple[int, int, int, int]]:
    """Edges of a mask as straight pieces along pixel borders: (x0, y0, x1, y1), each as long as it goes.

    Connected areas of fewer than `speck` pixels are left out.
    """
    areas, _ = ndimage.label(mask)
    sizes = np.bincount(areas.ravel())
    kept = np.pad((sizes[areas] >= speck) & mask, 1)
    found = []
    for edges, upright in ((kept[1:] != kept[:-1], False), ((kept[:, 1:] != kept[:, :-1]).T, True)):
        # `edges[i]` is the border below line i - 1; a run of it is one piece.
        steps = np.diff(np.pad(edges.astype(np.int8), ((0, 0), (1, 1))), axis=1)
        for (line, start), (_, end) in zip(np.argwhere(steps == 1), np.argwhere(steps == -1), strict=True):
            a, b, c = int(start) - 1, int(end) - 1, int(line)
            found.append((c, a, c, b) if upright else (a, c, b, c))
    return found


def path(mask: np.ndarray) -> str:
    """The outline of a mask as the data of an SVG path, in pixels: closed lines."""
    across: dict[tuple[int, int], tuple[int, int]] = {}
    down: dict[tuple[int, int], tuple[int, int]] = {}
    for x0, y0, x1, y1 in segments(mask):
        of = down if x0 == x1 else across
        of[x0, y0], of[x1, y1] = (x1, y1), (x0, y0)
    # Where a piece ends, one of the other direction ends, too, and no more: where lines cross, both go on.
    found = ""
    while across:
        at = start = next(iter(across))
        found += f"M{start[0]} {start[1]}"
        while True:
            turn = across.pop(at)
            del across[turn]
            found += f"h{turn[0] - at[0]}"
            at = down[turn]
            if at == start:
                break
            found += f"v{at[1] - turn[1]}"
        found += "z"
    return found


def picture(image: np.ndarray) -> str:
    """A data URI of an image of shape (H, W, 3), uint8: PNG if small, else scaled down and JPEG."""
    found = Image.fromarray(image)
    if found.width <= LOSSLESS:
        return _uri(found, "PNG", optimize=True)
    if found.width > WIDEST:
        found = found.resize((WIDEST, round(WIDEST * found.height / found.width)), Image.Resampling.LANCZOS)
    return _uri(found, "JPEG", quality=90)


def thumbnail(image: np.ndarray) -> str:
    """A data URI of an image of shape (H, W, 3), uint8, at most `THUMBNAIL` wide and high, as WebP."""
    height, width = size_within(image.shape[:2], THUMBNAIL)
    found = Image.fromarray(image)
    if found.size != (width, height):
        found = found.resize((width, height), Image.Resampling.LANCZOS)
    return _uri(found, "WEBP", quality=88, method=6)


def lighter(data: str) -> str:
    """The data URI, as WebP, of a picture in base64."""
    return _uri(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), "WEBP", quality=88, method=6)


def size_within(size: tuple[int, ...], longest: int) -> tuple[int, int]:
    """Height and width scaled down, if need be, so that neither is larger than `longest`."""
    height, width = size
    scale = min(1.0, longest / max(height, width))
    return round(height * scale), round(width * scale)


def upsampled(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map (h, w) brought to `size` bilinearly, pixels taken as areas (PyTorch's ``align_corners=False``)."""
    factors = size[0] / values.shape[0], size[1] / values.shape[1]
    return ndimage.zoom(values, factors, order=1, mode="nearest", grid_mode=True)


def signed_heat(values: np.ndarray, positive: str, negative: str) -> str:
    """A data URI of a map with values in [-1, 1]: two colours, the more opaque the stronger; one pixel per position."""
    ink = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (positive, negative)], np.uint8)
    alpha = (np.clip(np.abs(np.nan_to_num(values)), 0, 1) * 255).round().astype(np.uint8)
    rgba = np.concatenate([ink[(values < 0).astype(int)], alpha[..., None]], axis=-1)
    return _uri(Image.fromarray(rgba), "PNG", optimize=True)


def heat(values: np.ndarray, low: float, high: float, colours: str) -> str:
    """A data URI of a map of shape (h, w), coloured from `low` to `high`; one pixel per position."""
    scaled = np.clip((np.nan_to_num(values, nan=low) - low) / max(high - low, 1e-12), 0, 1)
    rgb = matplotlib.colormaps[colours](scaled)[..., :3]
    # A palette makes the PNG of a map a third of its size, and 256 steps are what the map has.
    return _uri(Image.fromarray((rgb * 255).round().astype(np.uint8)).quantize(256), "PNG", optimize=True)


def gradient(colours: str, steps: int = 17) -> str:
    """The same colours as a CSS gradient, for the bar beside a map."""
    rgb = (matplotlib.colormaps[colours](np.linspace(0, 1, steps))[:, :3] * 255).round().astype(int)
    return "linear-gradient(90deg," + ",".join("#{:02x}{:02x}{:02x}".format(*c) for c in rgb) + ")"


def scale(low: float, high: float, colours: str, unit: str) -> dict[str, Any]:
    """The bar beside a map: its ends and middle, its unit, its colours."""
    digits = 2 if high - low < 5 else 1
    ends = [f"{value:.{digits}f}".replace("-", "−") for value in (low, (low + high) / 2, high)]
    return {"ticks": ends, "unit": unit, "gradient": Markup(gradient(colours))}


def _uri(image: Image.Image, form: str, **options: int | bool) -> str:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
