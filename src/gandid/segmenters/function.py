"""Segmenters made of a function."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from gandid.segmenters.first_batch import check_labels
from gandid.segmenters.names import check_background, check_classes


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
        self.classes = tuple(map(str, classes))
        self.background = check_background(background, self.classes)
        self.name: str = getattr(function, "__qualname__", type(function).__qualname__)
        check_classes(self.classes, self.background, self.name)
        self.settings: dict[str, Any] = {
            "function": f"{getattr(function, '__module__', '')}.{self.name}",
            "source": _source(function),
            "classes": list(self.classes),
            "background": list(self.background),
        }

    def extra_repr(self) -> str:
        return f"{self.name}, classes={self.classes}, background={self.background}"

    @torch.inference_mode()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Label each pixel of images (N, 3, H, W), colours in [-1, 1]: int64 (N, H, W), the index into `classes`.

        Raises
        ------
        GandidError
            If the function gives something else than such labels.
        """
        return check_labels(self.function(images), images, len(self.classes), self.name)


def _source(function: Callable[[Any], Any]) -> str:
    """SHA-256 of the text that defines a function, or an object's class; empty where no text is at hand."""
    try:
        text = inspect.getsource(function if inspect.isroutine(function) else type(function))
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()
