"""What gradients say of units: first-order effects of ablations, and the optimized ranking of GAN Dissection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gandid.errors import UsageError
from gandid.interventions import Runner
from gandid.segmenters import Segmenter
from gandid.threads import in_threads

MEMORY = 4  # an image that is differentiated takes about so many times the memory of one that is not
STEPS, BATCH, RATE = 150, 16, 0.05  # of Adam, for `alpha`
PENALTY = 0.005  # on the sum of squares: `l2_lambda` of the authors' code


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
    with torch.enable_grad():
        scale = torch.ones(1, runner.units, device=z.device, requires_grad=True)
        torch.autograd.grad(soft_area(segmenter, runner.scaled(z, scale))[0, 0], scale)


def has_gradients(runner: Runner, segmenter: Segmenter, z: Tensor) -> bool:
    """Whether the soft area of an image (`z` is one latent) can be differentiated by its units."""
    try:
        check_gradients(runner, segmenter, z)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # of a segmenter, or a generator, that was not made for it
        return False
    return True


def first_order(
    networks: Sequence[tuple[Runner, Segmenter]],
    z: Tensor,
    shown: np.ndarray,
    numbers: np.ndarray,
    rows: int,
    advance: Callable[[int], None] = lambda latents: None,
) -> np.ndarray:
    """Each unit's first-order effect on the soft area of each class.

    It is the derivative of the area along the path that ablates the unit alone, where the path begins: the sum over
    positions of gradient times activation (Simonyan et al. 2014). One backward pass gives the effects of all units on
    one class per latent, and a class only needs one for the latents that show it.

    `networks` are copies of the same, one for each thread, `numbers` (k,) says which classes, `shown` (n, k) whether the
    unedited images of `z` (n, latent_dim) show them, `rows` how many images may be made at once without differentiating
    them. The effects (n, units, k), float32, are the losses of area, shares of the image, that ablating the unit would
    cause if the area were linear in it; 0 where the class is not there. `advance` is called with the number of latents
    done.
    """
    effect = np.zeros((len(z), networks[0][0].units, len(numbers)), np.float32)
    # Latents with as many classes go together: the passes of a batch are those of the latent that shows most.
    order = np.argsort(shown.sum(axis=1), kind="stable")
    size = max(1, rows // MEMORY)

    def work(replica: tuple[Runner, Segmenter], batch: np.ndarray) -> int:
        runner, segmenter = replica
        with torch.enable_grad():
            scale = torch.ones(len(batch), runner.units, device=z.device, requires_grad=True)
            areas = soft_area(segmenter, runner.scaled(z[torch.from_numpy(batch).to(z.device)], scale))
        passes, found = int(shown[batch].sum(axis=1).max()), scale.new_zeros(len(batch), len(numbers), runner.units)
        turn = np.cumsum(shown[batch], axis=1) * shown[batch]  # the pass of each class of each latent, from 1 on
        for i in range(1, passes + 1):
            row, place = np.nonzero(turn == i)
            (gradient,) = torch.autograd.grad(areas[row, numbers[place]].sum(), scale, retain_graph=i < passes)
            found[row, place] = gradient[row]
        effect[batch] = found.cpu().numpy().swapaxes(1, 2)
        return len(batch)

    for done in in_threads(work, np.array_split(order, range(size, len(order), size)), networks):
        advance(done)
    return effect


def optimize(
    runner: Runner,
    segmenter: Segmenter,
    z: Tensor,
    target: int,
    rows: int,
    advance: Callable[[int], None] = lambda steps: None,
) -> np.ndarray:
    """Learn for one class how much of each unit to ablate, all units together.

    Minimizes `E[a(alpha)] / E[a(0)] + PENALTY * sum(alpha^2)`, where `a(alpha)` is the soft area of the class with
    every unit multiplied by `1 - alpha`, everywhere and with every site live (Bau et al. 2018, section 3.2, equations 5
    to 7: the half of their objective that ablates). It starts at `alpha = 0`, and after each step `alpha` is clipped to
    [0, 1].

    `z` (n, latent_dim) are latents that show the class, of which each step takes `BATCH`, the next ones in an order
    drawn with a fixed seed; `target` is the number of the class, and `rows` how many images may be made at once without
    differentiating them. Returns `alpha` (units,), float32, zeros if there are no latents. `advance` is called with the
    number of steps made.
    """
    alpha = torch.zeros(runner.units, device=z.device, requires_grad=True)
    if len(z) == 0:
        advance(STEPS)
        return alpha.detach().cpu().numpy()

    def target_area(part: Tensor) -> Tensor:
        return soft_area(segmenter, runner.scaled(part, (1 - alpha).expand(len(part), -1)))[:, target]

    optimizer = torch.optim.Adam([alpha], lr=RATE)
    size = max(1, rows // MEMORY)
    with torch.no_grad():
        whole = torch.cat([target_area(part) for part in z.split(size)]).mean()
    shuffled, queue = np.random.default_rng(0), np.empty(0, np.int64)
    for _ in range(STEPS):
        while len(queue) < min(BATCH, len(z)):
            queue = np.concatenate([queue, shuffled.permutation(len(z))])
        batch, queue = np.split(queue, [min(BATCH, len(z))])
        optimizer.zero_grad()
        with torch.enable_grad():
            for part in np.array_split(batch, range(size, len(batch), size)):
                left = target_area(z[torch.from_numpy(part).to(z.device)])
                (left.sum() / (len(batch) * whole)).backward(inputs=[alpha])
            (PENALTY * alpha.square().sum()).backward()
        optimizer.step()
        with torch.no_grad():
            alpha.clamp_(0, 1)
        advance(1)
    return alpha.detach().cpu().numpy()
