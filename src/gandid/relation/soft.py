"""Areas of classes that can be differentiated, and the first-order effects of all units on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gandid.errors import UsageError
from gandid.interventions import Runner
from gandid.segmenters import Segmenter

GRAPH = 4  # an image that is to be differentiated takes about so many times the memory of one that is not


def soft_area(segmenter: Segmenter, images: Tensor) -> Tensor:
    """Expected share of the image that each class covers (n, classes): the mean over pixels of its probability.

    Raises
    ------
    UsageError
        If the segmenter gives no probabilities, or none that can be differentiated.
    """
    give: Any = getattr(segmenter, "probabilities", None)
    probabilities = give(images) if give else None
    if probabilities is None or (images.requires_grad and not probabilities.requires_grad):
        raise UsageError(
            "this segmenter gives no probabilities that can be differentiated, which screened and optimized rankings need: "
            "use --ranking exact"
        )
    return probabilities.mean(dim=(2, 3))


def check_gradients(runner: Runner, segmenter: Segmenter, z: Tensor) -> None:
    """Raise `UsageError` unless the soft area of an image (`z` is one latent) can be differentiated by its units."""
    soft_area(segmenter, runner.scaled(z, torch.ones(1, runner.units, device=z.device, requires_grad=True)))


def first_order(
    runner: Runner,
    segmenter: Segmenter,
    z: Tensor,
    before: np.ndarray,
    numbers: np.ndarray,
    rows: int,
    on_progress: Callable[[int], None],
) -> np.ndarray:
    """Each unit's first-order effect on the soft area of each class.

    It is the derivative of the area along the path that ablates the unit alone, where the path begins: the sum over positions of
    gradient times activation (Simonyan et al. 2014). One backward pass gives those of all units on one class per latent, and a
    class only needs one for the latents that show it.

    Parameters
    ----------
    z : Tensor of shape (n, latent_dim)
    before : array of shape (n, classes)
        Area of the unedited images.
    numbers : int array of shape (k,)
        Which classes.
    rows : int
        Images that may be made at once, were they not differentiated.

    Returns
    -------
    array of shape (n, units, k), float32
        The loss of area, a share of the image, that ablating the unit would cause were the area linear in it; 0 where the class
        is not there.
    """
    effect = np.zeros((len(z), runner.units, len(numbers)), np.float32)
    shown = before[:, numbers] > 0
    # Latents with as many classes go together: the passes of a batch are those of the latent that shows most.
    order = np.argsort(shown.sum(axis=1), kind="stable")
    size = max(1, rows // GRAPH)
    for some in np.array_split(order, range(size, len(order), size)):
        with torch.enable_grad():
            scale = torch.ones(len(some), runner.units, device=z.device, requires_grad=True)
            areas = soft_area(segmenter, runner.scaled(z[torch.from_numpy(some).to(z.device)], scale))
        passes = int(shown[some].sum(axis=1).max())
        turn = np.cumsum(shown[some], axis=1) * shown[some]  # of each class of each latent, from 1 on
        for i in range(1, passes + 1):
            row, place = np.nonzero(turn == i)
            (gradient,) = torch.autograd.grad(areas[row, numbers[place]].sum(), scale, retain_graph=i < passes)
            effect[some[row], :, place] = gradient[torch.from_numpy(row).to(z.device)].cpu().numpy()
        on_progress(len(some))
    return effect
