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
    """Per-latent parts of a ratio of sums over latents: a mean of per-image ratios would blow up where the target is small."""

    numerator: np.ndarray
    """Pixels, shape (N,) for `removed` and (N, C) for `inpainted`."""
    denominator: np.ndarray
    """The target's original pixels, shape (N,); 0 where the latent does not show it."""


def area(pixels: npt.ArrayLike, image_pixels: int) -> np.ndarray:
    """Share of the image that each class covers, in 0 .. 1.

    The average causal effect of GAN Dissection (Bau et al. 2018) is ``ACE = mean(area(unedited) - area(edited))``. `pixels` are
    counts (..., C), and `image_pixels` is H * W.
    """
    return np.asarray(pixels, np.float64) / image_pixels


def collateral(pixels: npt.ArrayLike, inside: npt.ArrayLike, image_pixels: int) -> np.ndarray:
    """Share of the image that each class covers *outside* the target's original pixels, in 0 .. 1.

    The outcome proper is the change of this share against the unedited image. `pixels` and `inside` are counts (..., C) over the
    image and on the target's original pixels.
    """
    return (np.asarray(pixels, np.float64) - np.asarray(inside, np.float64)) / image_pixels


def emerged(before: npt.ArrayLike, after: npt.ArrayLike, image_pixels: int, presence: float = 0.003) -> np.ndarray:
    """Whether each class covers less than `presence`, a share of the image, before the edit, and at least that after: 0 or 1.

    `before` and `after` are counts (..., C) of the unedited and of the edited image; the mean over latents is the share of images.
    """
    least = presence * image_pixels
    return ((np.asarray(before) < least) & (np.asarray(after) >= least)).astype(np.float64)


def removed(inside: npt.ArrayLike, target: int) -> Ratio:
    """Share of the target's original pixels that no longer carry its label, from counts (N, C) of the edited image on them."""
    counts = np.asarray(inside, np.float64)
    whole = counts.sum(-1)
    return Ratio(whole - counts[..., target], whole)


def inpainted(inside: npt.ArrayLike, target: int) -> Ratio:
    """Share of the target's original pixels that now carry each other class; over classes it sums to `removed`.

    The target itself, which cannot in-paint itself, has 0.
    """
    counts = np.array(inside, np.float64)
    whole = counts.sum(-1)
    counts[..., target] = 0.0
    return Ratio(counts, whole)
