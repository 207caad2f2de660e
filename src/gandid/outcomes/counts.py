"""Counting pixels per class, from labels."""

import numpy as np
import numpy.typing as npt

# Maps counted at a time: the offset labels of a block stay in the processor's cache.
BLOCK = 256


def pixels(labels: npt.ArrayLike, n_classes: int) -> np.ndarray:
    """Count the pixels that carry each class.

    Parameters
    ----------
    labels
        Integer labels in ``0 .. n_classes - 1``, shape (..., H, W).
    n_classes
        Number of classes C.

    Returns
    -------
    numpy.ndarray
        int64 counts, shape (..., C); over classes they sum to H * W.

    Raises
    ------
    ValueError
        If labels are no integers, or one lies outside ``0 .. n_classes - 1``.
    """
    return _count(np.asarray(labels), None, n_classes)


def inside(labels: npt.ArrayLike, mask: npt.ArrayLike, n_classes: int) -> np.ndarray:
    """Count the pixels that carry each class within a mask.

    The mask is usually the target's original pixels: where the unedited image of the same latent carries it.

    Parameters
    ----------
    labels, n_classes
        As in `pixels`.
    mask
        Boolean, shape (..., H, W), broadcast against the labels' leading axes (one mask may serve several arms).

    Returns
    -------
    numpy.ndarray
        int64 counts, shape (..., C); over classes they sum to the size of the mask.

    Raises
    ------
    ValueError
        As in `pixels`; also if the mask is not boolean, or shapes do not fit.
    """
    maps, mask = np.asarray(labels), np.asarray(mask)
    if mask.dtype != np.bool_:
        raise ValueError(f"labels need a boolean mask, not one of {mask.dtype}")
    return _count(maps, np.broadcast_to(mask, maps.shape), n_classes)


def _count(labels: np.ndarray, mask: np.ndarray | None, n_classes: int) -> np.ndarray:
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are integers, not {labels.dtype}")
    if labels.size and not 0 <= labels.min() <= labels.max() < n_classes:
        raise ValueError(f"labels reach from {labels.min()} to {labels.max()}, outside 0 .. {n_classes - 1}")
    *lead, height, width = labels.shape
    flat = labels.reshape(-1, height * width)
    chosen = None if mask is None else mask.reshape(flat.shape)
    counts = np.empty((len(flat), n_classes), np.int64)
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        # Each map counts into bins of its own, so that one bincount serves a whole block.
        bins = block + n_classes * np.arange(len(block))[:, None]
        if chosen is not None:
            bins = bins[chosen[start : start + BLOCK]]
        counted = np.bincount(bins.ravel(), minlength=len(block) * n_classes)
        counts[start : start + BLOCK] = counted.reshape(len(block), n_classes)
    return counts.reshape(*lead, n_classes)
