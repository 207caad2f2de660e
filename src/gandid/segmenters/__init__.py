"""Segmenters: images to the class of each pixel. PyTorch is imported when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gandid.lazy import attach
from gandid.segmenters.names import UNKNOWN
from gandid.segmenters.protocol import Segmenter, objects_of

if TYPE_CHECKING:
    from gandid.segmenters.by_name import NAMED, SECOND, confusion, load_segmenter
    from gandid.segmenters.first_batch import check_segmenter, labelled, name_of
    from gandid.segmenters.function import FunctionSegmenter

_MODULES = {
    "first_batch": ("check_segmenter", "labelled", "name_of"),
    "function": ("FunctionSegmenter",),
    "by_name": ("NAMED", "SECOND", "confusion", "load_segmenter"),
}

__all__ = [
    "NAMED", "SECOND", "UNKNOWN", "FunctionSegmenter", "Segmenter", "check_segmenter", "confusion", "labelled",
    "load_segmenter", "name_of", "objects_of",
]  # fmt: skip

__getattr__ = attach(__name__, {name: module for module, names in _MODULES.items() for name in names})
