"""What the rest of gandid needs of a segmenter, and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

from gandid.segmenters.names import UNKNOWN


@runtime_checkable
class Segmenter(Protocol):
    """Anything that names the class of each pixel: a callable with two attributes.

    A segmenter may also offer `probabilities(images)`, giving float32 of shape (N, C, H, W) that sums to 1
    over `C`, in the order of `classes`; the soft outcomes need it. Who wants it asks `getattr(segmenter, "probabilities", None)`.

    A class called `"unknown"`, where there is one, holds the pixels that the segmenter declines to name. It
    is neither background nor an object: its pixels count as removed from a target that they were, and could be anything, so that
    effects have bounds (`gandid.estimation.contrast.bounds_of`).

    Attributes
    ----------
    classes : tuple of str
        Name of each label: label `i` means `classes[i]`.
    background : tuple of str
        The classes that fill any hole (wall, floor, sky): they are not objects.
    """

    classes: tuple[str, ...]
    background: tuple[str, ...]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Label each pixel: images (N, 3, H, W), colours in [-1, 1], to int64 (N, H, W), the index into `classes`."""
        ...


def objects_of(segmenter: Segmenter) -> tuple[str, ...]:
    """A segmenter's object classes, in its order: neither background nor `unknown`."""
    return tuple(name for name in segmenter.classes if name not in segmenter.background and name != UNKNOWN)
