"""Segmenters: images to the class of each pixel."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from gandid.errors import UsageError
from gandid.segmenters.protocol import Segmenter
from gandid.segmenters.unet import UNKNOWN, UNetSegmenter, read_segmenter, save_segmenter

__all__ = [
    "NAMED",
    "UNKNOWN",
    "Segmenter",
    "UNetSegmenter",
    "load_segmenter",
    "read_segmenter",
    "save_segmenter",
]

WEIGHTS = Path(__file__).parent / "weights"
NAMED = {"rooms": WEIGHTS / "rooms.safetensors"}


def load_segmenter(name_or_path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Segmenter:
    """Load a segmenter by name or from a file.

    Parameters
    ----------
    name_or_path : str or path
        `"rooms"`, the segmenter that ships with the package, or the path of a `.safetensors` file that
        `gandid train segmenter` wrote. A name wins over a file of the same name.
    device : str or torch.device
        Where it computes.

    Returns
    -------
    Segmenter

    Raises
    ------
    UsageError
        If there is no such name and no such file, or the file holds no segmenter.
    """
    path = NAMED.get(str(name_or_path))
    if path is None:
        path = Path(name_or_path)
        if not path.is_file():
            names = ", ".join(NAMED)
            raise UsageError(
                f"unknown segmenter {str(name_or_path)!r}: the names are {names}; or give a .safetensors file"
            )
    segmenter = read_segmenter(path, device)
    segmenter.name = str(name_or_path)
    return segmenter
