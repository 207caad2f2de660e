"""The five outcomes, per latent, from counts of pixels.

Each takes the counts of one arm, and of the unedited image of the same regime where the outcome is a change against it, with
classes on the last axis. Definitions are those of the table "Outcomes" in the project's theory.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MEANS = ("area", "collateral", "emerged")
RATIOS = ("removed", "inpainted")
OUTCOMES = ("area", "removed", "inpainted", "collateral", "emerged")


class Ratio(NamedTuple):
    """Per-latent parts of a ratio of sums, ``sum(numerator) / sum(denominator)`` over latents.

    A mean of per-image ratios would blow up where the target is small; the ratio of sums weighs every pixel
    alike.
    """

    numerator: np.ndarray
    """Pixels, shape (N,) for `removed` and (N, C) for `inpainted`."""
    denominator: np.ndarray
    """The target's original pixels, shape (N,); 0 where the latent does not show it."""


def area(pixels: npt.ArrayLike, image_pixels: int) -> np.ndarray:
    """Share of the image that each class covers.

    The average causal effect of GAN Dissection (Bau et al. 2018) is ``ACE = mean(area(unedited) -
    area(edited))``.

    Parameters
    ----------
    pixels
        Counts, shape (..., C).
    image_pixels
        Pixels of one image, H * W.

    Returns
    -------
    numpy.ndarray
        Shares in 0 .. 1, shape (..., C).
    """
    return np.asarray(pixels, np.float64) / image_pixels


def collateral(pixels: npt.ArrayLike, inside: npt.ArrayLike, image_pixels: int) -> np.ndarray:
    """Share of the image that each class covers *outside* the target's original pixels.

    The outcome proper is the change of this share against the unedited image.

    Parameters
    ----------
    pixels, inside
        Counts over the image and on the target's original pixels, shape (..., C).
    image_pixels
        Pixels of one image, H * W.

    Returns
    -------
    numpy.ndarray
        Shares in 0 .. 1, shape (..., C).
    """
    return (np.asarray(pixels, np.float64) - np.asarray(inside, np.float64)) / image_pixels


def emerged(before: npt.ArrayLike, after: npt.ArrayLike, image_pixels: int, presence: float = 0.003) -> np.ndarray:
    """Whether each class covers less than a threshold before the edit, and at least that after.

    Parameters
    ----------
    before, after
        Counts of the unedited and of the edited image, shape (..., C).
    image_pixels
        Pixels of one image, H * W.
    presence
        The threshold, a share of the image.

    Returns
    -------
    numpy.ndarray
        0.0 or 1.0, shape (..., C); its mean over latents is the share of images.
    """
    least = presence * image_pixels
    return ((np.asarray(before) < least) & (np.asarray(after) >= least)).astype(np.float64)


def removed(inside: npt.ArrayLike, target: int) -> Ratio:
    """Share of the target's original pixels that no longer carry its label.

    Parameters
    ----------
    inside
        Counts of the edited image on the target's original pixels, shape (N, C).
    target
        Index of the target among the classes.

    Returns
    -------
    Ratio
        Numerator and denominator, each of shape (N,).
    """
    counts = np.asarray(inside, np.float64)
    whole = counts.sum(-1)
    return Ratio(whole - counts[..., target], whole)


def inpainted(inside: npt.ArrayLike, target: int) -> Ratio:
    """Share of the target's original pixels that now carry each other class.

    Over classes it sums to `removed`.

    Parameters
    ----------
    inside
        Counts of the edited image on the target's original pixels, shape (N, C).
    target
        Index of the target among the classes.

    Returns
    -------
    Ratio
        Numerator, shape (N, C), 0 for the target itself, which cannot in-paint itself; denominator, shape
        (N,).
    """
    counts = np.array(inside, np.float64)
    whole = counts.sum(-1)
    counts[..., target] = 0.0
    return Ratio(counts, whole)
