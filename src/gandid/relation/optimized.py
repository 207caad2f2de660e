"""Units by how much of each an ablation of all of them together should take: GAN Dissection's optimized ranking.

Bau et al. 2018, section 3.2, equations 5 to 7: `alpha` in [0, 1] per unit is learned by stochastic gradient descent to maximize the
average causal effect on a class of ablating each unit by its share, less a penalty on the sum of squares. Of the two halves of
their effect, ablation where the class is and insertion where it is not, this has the first, as the study ablates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gandid.interventions import Runner
from gandid.relation.soft import GRAPH, soft_area
from gandid.segmenters import Segmenter

STEPS, BATCH, RATE = 150, 16, 0.05  # of Adam
PENALTY = 0.005  # on the sum of squares: `l2_lambda` of the authors' code


def optimize(
    runner: Runner,
    segmenter: Segmenter,
    z: Tensor,
    target: int,
    rows: int,
    on_progress: Callable[[int], None] = lambda steps: None,
) -> np.ndarray:
    """Learn `alpha` of every unit for one class.

    Minimizes `E[a(alpha)] / E[a(0)] + PENALTY * sum(alpha^2)`, where `a(alpha)` is the soft area of the class with every unit
    multiplied by `1 - alpha`, everywhere and with every site live. It starts at `alpha = 0`, and after each step what leaves
    [0, 1] is cut off.

    Parameters
    ----------
    z : Tensor of shape (n, latent_dim)
        Latents that show the class; each step takes `BATCH` of them, the next ones in an order that chance makes from a fixed
        seed.
    target : int
        The class.
    rows : int
        Images that may be made at once, were they not differentiated.
    on_progress : callable
        Told how many steps were made since the last call.

    Returns
    -------
    array of shape (units,), float32
        Zeros if there are no latents.
    """
    alpha = torch.zeros(runner.units, device=z.device, requires_grad=True)
    if len(z) == 0:
        on_progress(STEPS)
        return alpha.detach().cpu().numpy()
    optimizer = torch.optim.Adam([alpha], lr=RATE)
    size = max(1, rows // GRAPH)
    with torch.no_grad():
        whole = torch.cat([_area(runner, segmenter, some, alpha, target) for some in z.split(size)]).mean()
    shuffled = np.random.default_rng(0)
    queue = np.empty(0, np.int64)
    for _ in range(STEPS):
        while len(queue) < min(BATCH, len(z)):
            queue = np.concatenate([queue, shuffled.permutation(len(z))])
        taken, queue = np.split(queue, [min(BATCH, len(z))])
        optimizer.zero_grad()
        with torch.enable_grad():
            for part in np.array_split(taken, range(size, len(taken), size)):
                left = _area(runner, segmenter, z[torch.from_numpy(part).to(z.device)], alpha, target)
                (left.sum() / (len(taken) * whole)).backward(inputs=[alpha])
            (PENALTY * alpha.square().sum()).backward()
        optimizer.step()
        with torch.no_grad():
            alpha.clamp_(0, 1)
        on_progress(1)
    return alpha.detach().cpu().numpy()


def _area(runner: Runner, segmenter: Segmenter, z: Tensor, alpha: Tensor, target: int) -> Tensor:
    return soft_area(segmenter, runner.scaled(z, (1 - alpha).expand(len(z), -1)))[:, target]
