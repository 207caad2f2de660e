"""Segmenters by name, from a file, from a folder or the hub of Hugging Face, or from a factory of the user's own."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gandid.errors import UsageError, did_you_mean
from gandid.factory import call_factory, digest, is_factory
from gandid.segmenters.names import check_background
from gandid.segmenters.protocol import Segmenter

if TYPE_CHECKING:
    import pandas as pd
    import torch

WEIGHTS = Path(__file__).parent / "weights"
NAMED = {name: WEIGHTS / f"{name}.safetensors" for name in ("rooms", "rooms-dilated")}
PLANTED = ("planted", "planted-careful", "planted-unsure")  # of the planted standard, `gandid.truth`
PAIRS = (("rooms", "rooms-dilated"), PLANTED[:2])
SECOND = {one: other for pair in PAIRS for one, other in (pair, pair[::-1])}  # which of the others checks a segmenter
SECOND["planted-unsure"] = "planted-careful"
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
        - `"planted"`, `"planted-careful"` or `"planted-unsure"`, those of the planted standard: what is a mirror to the first is wall
          to the second and unknown to the third;
        - a `.safetensors` file that `save_segmenter` wrote;
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
    if name in PLANTED:
        from gandid.segmenters.planted import planted_segmenter

        segmenter = planted_segmenter(name)
    elif is_file:
        from gandid.segmenters.network import read_segmenter

        segmenter = read_segmenter(NAMED.get(name, Path(name)), device)
    elif is_factory(name):
        segmenter = _make(name, device)
    else:
        known = (*NAMED, *PLANTED)
        raise UsageError(
            f"unknown segmenter '{name}'{did_you_mean(name, known)} the names are {', '.join(known)}; or give a .safetensors "
            "file, the folder or hub id (owner/model) of a Hugging Face model, or FILE.py:FACTORY"
        )
    segmenter.name = name
    if background is not None:
        segmenter.background = check_background(background, segmenter.classes)
    segmenter.asked = {"background": background}
    return segmenter


def confusion(segmenter: Segmenter | str) -> pd.DataFrame | None:
    """How an embedded segmenter, or one of that name, confuses the classes of rooms, as measured by `lab.confusion`.

    Returns
    -------
    pandas.DataFrame or None
        Rows the true class, columns the class that is named, both in the order of the segmenter's classes: shares of the true
        class's pixels, which sum to 1 in each row. None for a segmenter that has not been measured.
    """
    name = segmenter if isinstance(segmenter, str) else getattr(segmenter, "name", None)
    if name not in NAMED:
        return None
    import pandas as pd

    return pd.read_csv(WEIGHTS / f"{name}-confusion.csv", index_col="true")


def _make(name: str, device: str | torch.device) -> Any:
    """Call the factory of `FILE.py:FACTORY` and check what it returns."""
    from torch import nn

    segmenter = call_factory(name)
    if not isinstance(segmenter, Segmenter):
        raise UsageError(
            f"{name} returned a {type(segmenter).__name__}: it must return a segmenter, such as "
            "gandid.segmenters.FunctionSegmenter(function, classes, background)"
        )
    if isinstance(segmenter, nn.Module):
        segmenter = segmenter.to(device).eval()
    with contextlib.suppress(AttributeError):  # where the settings are a property
        # The whole file decides the labels, not the function alone.
        segmenter.settings = getattr(segmenter, "settings", {}) | {"file": digest(name)}
    return segmenter
