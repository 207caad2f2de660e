"""Segmenters: images to the class of each pixel."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from gandid.errors import UsageError
from gandid.factory import is_factory
from gandid.segmenters.function import FunctionSegmenter, load_own
from gandid.segmenters.names import BACKGROUND, check_background
from gandid.segmenters.network import UNKNOWN, NetworkSegmenter, read_segmenter, save_segmenter
from gandid.segmenters.protocol import Segmenter, objects_of

__all__ = [
    "BACKGROUND",
    "NAMED",
    "SECOND",
    "UNKNOWN",
    "FunctionSegmenter",
    "NetworkSegmenter",
    "Segmenter",
    "load_segmenter",
    "objects_of",
    "read_segmenter",
    "save_segmenter",
]

WEIGHTS = Path(__file__).parent / "weights"
NAMED = {name: WEIGHTS / f"{name}.safetensors" for name in ("rooms", "rooms-dilated")}
SECOND = {"rooms": "rooms-dilated", "rooms-dilated": "rooms"}  # under which what one sees is looked at again
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(?<!\.safetensors)")


def load_segmenter(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    *,
    size: int | tuple[int, int] | None = None,
    scales: Sequence[float] | None = None,
    background: Iterable[str] | None = None,
) -> Segmenter:
    """Load a segmenter by name, from a file or from a folder.

    Parameters
    ----------
    name_or_path : str or path
        One of

        - `"rooms"` or `"rooms-dilated"`, the segmenters that ship with the package, built and trained apart;
        - a `.safetensors` file that `gandid train segmenter` wrote;
        - a model of the Hugging Face library `transformers`: a folder, or an id on its hub such as
          `nvidia/segformer-b0-finetuned-ade-512-512`; see `gandid.segmenters.huggingface.load_huggingface`;
        - `FILE.py:FACTORY`: the file is run, and `FACTORY()` returns any `Segmenter`, such as a `FunctionSegmenter`.

        A name wins over a file of the same name.
    device : str or torch.device
        Where it computes.
    size : int or (int, int), optional
        Height and width of the input of a `transformers` model, in pixels; by default what its folder says.
    scales : sequence of float, optional
        A `transformers` model sees the images at its input size times each of these, and its probabilities are averaged.
    background : iterable of str, optional
        The classes that fill any hole, in place of those the segmenter names itself.

    Returns
    -------
    Segmenter

    Raises
    ------
    UsageError
        If there is no such name, file or folder, it holds no segmenter, or an option does not fit it.
    GandidError
        If a model of the hub is not here and cannot be fetched.
    """
    segmenter: Any
    name, background = str(name_or_path), None if background is None else tuple(background)
    is_file = name in NAMED or Path(name).is_file()
    if not is_file and not is_factory(name) and (Path(name).is_dir() or HUB_ID.fullmatch(name)):
        from gandid.segmenters.huggingface import load_huggingface  # transformers takes seconds to import

        segmenter = load_huggingface(name, device, size=size, scales=scales or (1.0,), background=background)
        segmenter.asked = {"segmenter_size": size, "segmenter_scales": scales, "background": background}
        return segmenter
    if size is not None or scales is not None:
        raise UsageError(f"{name} takes no size or scales: only models of transformers do")
    if is_file:
        segmenter = read_segmenter(NAMED.get(name, Path(name)), device)
    elif is_factory(name):
        segmenter = load_own(name, device)
    else:
        raise UsageError(
            f"unknown segmenter '{name}': the names are {', '.join(NAMED)}; or give a .safetensors file, the folder or hub "
            "id (owner/model) of a Hugging Face model, or FILE.py:FACTORY"
        )
    segmenter.name = name
    if background is not None:
        segmenter.background = check_background(background, segmenter.classes)
    segmenter.asked = {"background": background}
    return segmenter
