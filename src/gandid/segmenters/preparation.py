"""How images become the input of a model of `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gandid.errors import UsageError

STEP = 32  # resized scales are multiples of this many pixels: what every backbone can halve


@dataclass(frozen=True)
class Preparation:
    """How images become a network's input, as its `preprocessor_config.json` has it.

    Attributes
    ----------
    size : dict or None
        `height` and `width`; or `shortest_edge` and perhaps `longest_edge`, which keep the picture's proportions.
        None leaves images as they are.
    multiple : int
        Height and width are rounded up to multiples of this.
    resample : str
        `bilinear`, `bicubic` or `nearest`.
    rescale : float
        What pixels of 0 to 255 are multiplied by.
    mean, std : tuple of three float
        Per channel: subtracted after that, and divided by.
    bgr : bool
        Blue first.
    """

    size: dict[str, int] | None
    multiple: int
    resample: str
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool

    @classmethod
    def from_dict(cls, given: dict[str, Any], size: int | tuple[int, int] | None = None) -> Preparation:
        """Read a `preprocessor_config.json`, of the present or of older versions; `size` wins over what it says."""
        normalize = given.get("do_normalize", True)
        mean, std = (given["image_mean"], given["image_std"]) if normalize else ((0.0,) * 3, (1.0,) * 3)
        if not all(std):
            raise ValueError(f"image_std {std} holds a zero")
        multiples = (given.get(name) for name in ("size_divisor", "size_divisibility", "ensure_multiple_of"))
        return cls(
            size=_size(given, size),
            multiple=next(filter(None, multiples), 1),
            # PIL's numbers; its Lanczos has no counterpart in torch, and bicubic is the nearest thing.
            resample={0: "nearest", 2: "bilinear"}.get(given.get("resample", 2), "bicubic"),
            rescale=given.get("rescale_factor", 1 / 255) if given.get("do_rescale", True) else 1.0,
            mean=tuple(mean),
            std=tuple(std),
            bgr=bool(given.get("do_flip_channel_order", False)),
        )

    def input_size(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Height and width of the network's input for an image's."""
        wanted: tuple[float, ...]
        if self.size is None:
            wanted = height, width
        elif "height" in self.size:
            wanted = self.size["height"], self.size["width"]
        else:
            ratio = self.size["shortest_edge"] / min(height, width)
            longest = self.size.get("longest_edge")
            if longest and ratio * max(height, width) > longest:
                ratio = longest / max(height, width)
            wanted = round(ratio * height), round(ratio * width)
        if scale != 1:
            wanted = tuple(max(STEP, STEP * round(scale * side / STEP)) for side in wanted)
        height, width = (-int(-side // self.multiple) * self.multiple for side in wanted)
        return height, width

    def __call__(self, images: Tensor, scale: float = 1.0) -> Tensor:
        """Prepare images (N, 3, H, W), float32 in [-1, 1]; what lies outside is cut off, as a picture file would."""
        pixels = (images.clamp(-1, 1) + 1) * 127.5
        size = self.input_size(images.shape[2], images.shape[3], scale)
        if size != tuple(images.shape[2:]):
            smooth = self.resample != "nearest"
            # Antialiased, as PIL resizes; it makes no difference where images grow.
            pixels = F.interpolate(pixels, size, mode=self.resample, antialias=smooth).clamp(0, 255)
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std))
        pixels = (pixels * self.rescale - mean) / std
        return pixels.flip(1) if self.bgr else pixels


def _size(given: dict[str, Any], chosen: int | tuple[int, int] | None) -> dict[str, int] | None:
    """The input size of a `preprocessor_config.json`, in one of the forms of `Preparation.size`."""
    if chosen is not None:
        height, width = (chosen, chosen) if isinstance(chosen, int) else chosen
        if not (1 <= height <= 8192 and 1 <= width <= 8192):
            raise UsageError(f"an input size is a number of pixels from 1 to 8192, or two, not {chosen}")
        return {"height": height, "width": width}
    # Where the center would be cut out, the whole is fitted into its place: every pixel needs a label.
    cut = given.get("do_center_crop", False) and "crop_size" in given
    if not cut and not given.get("do_resize", True):
        return None
    size = given["crop_size" if cut else "size"]
    if isinstance(size, int):  # older files
        size = {"height": size, "width": size}
        if "max_size" in given:
            size = {"shortest_edge": size["height"], "longest_edge": given["max_size"]}
    if isinstance(size, list):
        size = dict(zip(("height", "width"), size, strict=True))
    size = {key: int(value) for key, value in size.items() if value}
    if not ({"height", "width"} <= size.keys() or "shortest_edge" in size):
        raise ValueError(f"size {size}")
    return size
