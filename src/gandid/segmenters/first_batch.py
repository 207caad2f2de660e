"""What a segmenter must be for counts of its labels to mean anything, asked before anything is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gandid.errors import GandidError, UsageError, first_line
from gandid.segmenters.names import check_classes
from gandid.segmenters.protocol import Segmenter


def check_labels(labels: Any, images: torch.Tensor, classes: int, name: str) -> torch.Tensor:
    """Give what a segmenter answered as int64 on the images' device.

    Parameters
    ----------
    labels : Tensor or ndarray
        The answer: of any integer type, shape (N, H, W).
    images : Tensor, shape (N, 3, H, W)
        What was asked about.
    classes : int
        How many there are.
    name : str
        The segmenter's, for an error to say.

    Raises
    ------
    GandidError
        If the answer is something else than one label of a class for each pixel.
    """
    if not isinstance(labels, torch.Tensor | np.ndarray) or isinstance(labels, np.ma.MaskedArray):
        raise GandidError(f"{name} gave {type(labels).__name__}: a segmenter gives a tensor or an array of labels")
    if isinstance(labels, np.ndarray):  # PyTorch takes arrays that can be written into, of this machine's bytes
        labels = np.require(labels, labels.dtype.newbyteorder("="), "W")
    labels, expected = torch.as_tensor(labels), (len(images), *images.shape[2:])
    if tuple(labels.shape) != expected:
        raise GandidError(f"{name} gave labels of shape {tuple(labels.shape)} for images that need {expected}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        kind = str(labels.dtype).removeprefix("torch.")
        raise GandidError(f"{name} gave labels of type {kind}: they must be integers, one per pixel")
    labels = labels.to(images.device, torch.int64)
    if labels.numel() and not 0 <= labels.min() <= labels.max() < classes:
        low, high = int(labels.min()), int(labels.max())
        raise GandidError(f"{name} gave labels from {low} to {high}: its classes are numbered 0 to {classes - 1}")
    return labels


def labelled(segmenter: Segmenter, images: torch.Tensor) -> torch.Tensor:
    """Labels of images (N, 3, H, W), int64 (N, H, W), by a segmenter that may be anybody's and write into its copy; see `check_labels`."""
    return check_labels(segmenter(images.clone()), images, len(segmenter.classes), name_of(segmenter))


def name_of(segmenter: Segmenter) -> str:
    """What a segmenter is called: by its name, or its type's."""
    return getattr(segmenter, "name", None) or type(segmenter).__name__


@torch.inference_mode()
def check_segmenter(segmenter: Segmenter, images: torch.Tensor) -> None:
    """Refuse a segmenter whose labels of an image are no function of the image alone.

    Parameters
    ----------
    segmenter : Segmenter
    images : Tensor, float, shape (N, 3, H, W)
        Colours in [-1, 1]; at least two, of those that it will be asked about.

    Raises
    ------
    UsageError
        If it has no classes and background, or they make no sense; if it fails, gives no label of a class for each pixel, labels the
        same images otherwise the second time, or an image otherwise when it is alone.
    """
    name = name_of(segmenter)
    if not (isinstance(segmenter, Segmenter) and callable(segmenter)):
        raise UsageError(
            f"{name} is no segmenter: it is called with images, and has the attributes classes and background; gandid.load_segmenter "
            "makes one of a name or a file"
        )
    check_classes(segmenter.classes, segmenter.background, name)

    def ask(about: torch.Tensor) -> torch.Tensor:
        try:
            return labelled(segmenter, about)
        except UsageError:
            raise
        except GandidError as error:
            raise UsageError(str(error)) from error
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise UsageError(f"{name} fails on images of shape {tuple(about.shape)} ({first_line(error)})") from error

    labels = ask(images)
    limit = 1e-3 * labels.numel()  # pixels that rounding may decide
    if (ask(images) != labels).sum() > limit:
        raise UsageError(f"{name} labels the same images otherwise the second time: take what is random in it away")
    alone = torch.cat([ask(image) for image in images.split(1)])
    if (alone != labels).sum() > limit:
        raise UsageError(
            f"{name} labels an image otherwise when it is alone: the label of a pixel must not depend on the other images of "
            "its batch"
        )
