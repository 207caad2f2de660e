"""Counting pixels per class, from labels or from class probabilities."""

import numpy as np
import numpy.typing as npt

# Maps counted at a time: the offset labels of a block stay in the processor's cache.
BLOCK = 256


def pixels(labels: npt.ArrayLike, n_classes: int) -> np.ndarray:
    """Count the pixels that carry each class.

    Parameters
    ----------
    labels
        Either integer labels in ``0 .. n_classes - 1``, shape (..., H, W), or class probabilities (any
        floating type), shape (..., C, H, W) with ``C = n_classes``: the *soft* variant.
    n_classes
        Number of classes C.

    Returns
    -------
    numpy.ndarray
        Shape (..., C): counts of pixels (int64) for labels, expected counts (float64) for probabilities. Over
        classes they sum to H * W where every pixel has one class.

    Raises
    ------
    ValueError
        If a label lies outside ``0 .. n_classes - 1``, or the probabilities do not have ``n_classes``
        classes.
    """
    maps = np.asarray(labels)
    if _soft(maps, n_classes):
        return maps.sum((-2, -1), dtype=np.float64)
    return _count(maps, None, n_classes)


def inside(labels: npt.ArrayLike, mask: npt.ArrayLike, n_classes: int) -> np.ndarray:
    """Count the pixels that carry each class within a mask.

    The mask is usually the target's original pixels: where the unedited image of the same latent carries it.

    Parameters
    ----------
    labels
        As in `pixels`.
    mask
        Shape (..., H, W), broadcast against the labels' leading axes (one mask may serve several arms). For
        labels it is boolean. For probabilities it may also be a weight in 0 .. 1 (the probability of the
        target in the unedited image); the count is then the sum over pixels of the product.
    n_classes
        Number of classes C.

    Returns
    -------
    numpy.ndarray
        Shape (..., C), as in `pixels`. Over classes they sum to the size of the mask.

    Raises
    ------
    ValueError
        As in `pixels`; also if labels meet a mask that is not boolean, or shapes do not fit.
    """
    maps, mask = np.asarray(labels), np.asarray(mask)
    if _soft(maps, n_classes):
        return np.einsum("...chw,...hw->...c", maps.astype(np.float64, copy=False), mask.astype(np.float64))
    if mask.dtype != np.bool_:
        raise ValueError(f"labels need a boolean mask, not one of {mask.dtype}")
    return _count(maps, np.broadcast_to(mask, maps.shape), n_classes)


def _soft(maps: np.ndarray, n_classes: int) -> bool:
    """Whether `maps` holds probabilities; raises where they do not have `n_classes` classes."""
    if not np.issubdtype(maps.dtype, np.floating):
        return False
    if maps.ndim < 3 or maps.shape[-3] != n_classes:
        raise ValueError(f"probabilities of shape {maps.shape} do not have {n_classes} classes on their axis -3")
    return True


def _count(labels: np.ndarray, mask: np.ndarray | None, n_classes: int) -> np.ndarray:
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are integers or probabilities, not {labels.dtype}")
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
