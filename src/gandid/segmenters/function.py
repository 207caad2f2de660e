"""Segmenters of the user's own: made of a function, or by a Python file."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gandid.errors import GandidError, UsageError
from gandid.factory import call_factory
from gandid.segmenters.names import check_background
from gandid.segmenters.protocol import Segmenter


class FunctionSegmenter(nn.Module):
    """A `Segmenter` that asks a function, and checks what it answers.

    Parameters
    ----------
    function : callable
        Takes images (N, 3, H, W), float, colours in [-1, 1], and gives the label of each pixel, (N, H, W): a tensor
        or an array of any integer type. May be an `nn.Module`, whose weights then count in a study's fingerprint.
    classes : iterable of str
        Name of each label, all different.
    background : iterable of str
        The classes that fill any hole: they are not objects.

    Attributes
    ----------
    settings : dict
        What else tells this segmenter from another: the function's name, the hash of its source, the classes.

    Raises
    ------
    UsageError
        If two classes have one name, or a background class is not among the classes.
    """

    def __init__(self, function: Callable[[Any], Any], classes: Iterable[str], background: Iterable[str] = ()):
        super().__init__()
        self.function = function
        self.classes = tuple(classes)
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise UsageError(f"a segmenter's classes need names, all different, not {list(self.classes)}")
        self.background = check_background(background, self.classes)
        self.name: str | None = getattr(function, "__qualname__", type(function).__qualname__)
        self.settings: dict[str, Any] = {
            "function": f"{getattr(function, '__module__', '')}.{self.name}",
            "source": _source(function),
            "classes": list(self.classes),
            "background": list(self.background),
        }

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Label each pixel.

        Parameters
        ----------
        images : Tensor, float, shape (N, 3, H, W)
            Colours in [-1, 1].

        Returns
        -------
        Tensor, int64, shape (N, H, W)
            Index into `classes`, on the images' device.

        Raises
        ------
        GandidError
            If the function gives something else than such labels.
        """
        given = self.function(images)
        expected = (len(images), *images.shape[2:])
        if not isinstance(given, torch.Tensor | np.ndarray):
            raise GandidError(
                f"{self.name} gave {type(given).__name__}: a segmenter gives a tensor or an array of labels"
            )
        labels = torch.as_tensor(given)
        if tuple(labels.shape) != expected:
            raise GandidError(f"{self.name} gave labels of shape {tuple(labels.shape)} for images that need {expected}")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            kind = str(labels.dtype).removeprefix("torch.")
            raise GandidError(f"{self.name} gave labels of type {kind}: they must be integers, one per pixel")
        labels = labels.to(images.device, torch.int64)
        if labels.numel() and not 0 <= labels.min() <= labels.max() < len(self.classes):
            low, high, last = int(labels.min()), int(labels.max()), len(self.classes) - 1
            raise GandidError(f"{self.name} gave labels from {low} to {high}: its classes are numbered 0 to {last}")
        return labels


def load_own(name: str, device: str | torch.device = "cpu") -> Any:
    """Run a file of the user's and call its factory, which gives a `Segmenter`.

    Parameters
    ----------
    name : str
        `FILE.py:FACTORY`, see `gandid.factory.call_factory`.
    device : str or torch.device
        Where a segmenter that is an `nn.Module` goes.

    Raises
    ------
    UsageError
        If there is no such file or factory, it fails, or it returns something else.
    """
    segmenter = call_factory(name)
    if not isinstance(segmenter, Segmenter):
        raise UsageError(
            f"{name} returned a {type(segmenter).__name__}: it must return a segmenter, such as "
            "gandid.segmenters.FunctionSegmenter(function, classes, background)"
        )
    if isinstance(segmenter, nn.Module):
        segmenter = segmenter.to(device).eval()
    # The whole file decides the labels, not the function alone.
    settings = getattr(segmenter, "settings", {}) | {
        "file": hashlib.sha256(Path(name.rpartition(":")[0]).read_bytes()).hexdigest()
    }
    with contextlib.suppress(AttributeError):  # where the settings are a property
        segmenter.settings = settings
    return segmenter


def _source(function: Callable[[Any], Any]) -> str:
    """SHA-256 of the text that defines a function, or an object's class; empty where no text is at hand."""
    try:
        text = inspect.getsource(function if inspect.isroutine(function) else type(function))
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()
