"""Many arms on a few latents, in passes of as many images as may be made at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from gandid.interventions import REFERENCE, Arm, Runner
from gandid.segmenters import Segmenter, labelled

TOGETHER = 16  # arms of a pass, the reference arm among them: its share of the work should be small


def pictures(images: Tensor) -> np.ndarray:
    """Images (..., 3, H, W) in [-1, 1] as bytes (..., H, W, 3)."""
    return images.float().add(1).mul(127.5).clamp(0, 255).byte().movedim(-3, -1).cpu().numpy()


def batches(latents: int, rows: int) -> list[slice]:
    """Cut latents into parts of which `TOGETHER` arms are at most `rows` images."""
    size = max(1, rows // TOGETHER)
    return [slice(start, min(start + size, latents)) for start in range(0, latents, size)]


def passes(
    runner: Runner, segmenter: Segmenter, z: Tensor, arms: Sequence[Arm], rows: int, donors: Tensor | None = None
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Run `arms` in groups: yields which of them, their images (a, n, 3, H, W) and labels (a, n, H, W).

    The reference arm, to which held sites refer, is run with every group; it is among what is given only if `arms` has
    it.
    """
    size = max(1, rows // len(z) - 1)
    for start in range(0, len(arms), size):
        group = arms[start : start + size]
        images = runner.run(z, [REFERENCE, *group], donors=donors)[1:]
        labels = labelled(segmenter, images.flatten(0, 1)).unflatten(0, images.shape[:2])
        yield slice(start, start + len(group)), images, labels
