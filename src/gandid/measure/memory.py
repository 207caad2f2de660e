"""How many images fit: from a memory budget and what one image was seen to take."""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Callable
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gandid.errors import UsageError
from gandid.interventions import REFERENCE, Arm, Runner
from gandid.segmenters import Segmenter, labelled

CPU_ROWS = 96  # images made at once by each thread of a CPU: more of them are no quicker
FEW_ROWS = 16  # with fewer for each, threads share their images: see docs/performance.md
MOST_ROWS_GPU = 1024
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of malloc.h: no block but of the one heap, which never shrinks
SHARE = 0.5  # of the free memory, unless told otherwise
SLACK = 2.25  # what the libraries under PyTorch take for themselves, beside the tensors that are counted, measured at 256 px


def rows_that_fit(runner: Runner, segmenter: Segmenter, z: Tensor, budget: int | None = None) -> int:
    """How many images may be made and labelled at once.

    Parameters
    ----------
    runner, segmenter
        The networks; each is run on up to four images.
    z : Tensor (2, latent_dim)
        Any two latents.
    budget : int, optional
        Bytes that the run may take beside the weights; half of what is free by default.

    Raises
    ------
    UsageError
        If not even an image and its reference fit.
    """
    if budget is None:
        budget = default_budget(z.device)
    # What does not grow with the batch is counted as if it did: the estimate errs on the safe side.
    made: list[Tensor] = []
    making = peak_bytes(lambda: made.append(runner.read(z, [REFERENCE, Arm()])[0].flatten(0, 1)))
    labelling = peak_bytes(lambda: labelled(segmenter, made[0]))
    per_row = SLACK * (max(making, labelling) + made[0].nbytes) / len(made[0])
    fit = int(budget / per_row)
    if fit < 2:
        raise UsageError(
            f"{budget / 2**20:.0f} MiB of memory hold no pair of images: this study needs {2 * per_row / 2**20:.0f} MiB"
        )
    return min(fit, CPU_ROWS * torch.get_num_threads() if z.device.type == "cpu" else MOST_ROWS_GPU)


def keep_freed_memory() -> None:
    """Have the GNU C library keep the memory of freed tensors for the next ones; elsewhere, nothing.

    By default it hands blocks of many MiB back to the system, which clears each page again for the next map: of 128 images of 64 px
    that took 40 % of the generator's time, and what is kept is no more than the peak.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1)):
        mallopt(parameter, value)


def peak_memory() -> int:
    """The most bytes that this process has taken, the libraries and the weights included."""
    try:
        import resource
    except ImportError:  # Windows, which tells what it takes now
        return int(psutil.Process().memory_info().rss)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def default_budget(device: torch.device | str) -> int:
    """Half of the bytes that are free on a device."""
    device = torch.device(device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(SHARE * free)


def peak_bytes(work: Callable[[], Any]) -> int:
    """Largest sum of bytes of the tensors that exist at one time while `work` runs, without those that existed before."""
    with _Counting() as counting, torch.inference_mode():
        work()
    return counting.peak


class _Counting(TorchDispatchMode):
    """Counts the storages that operations allocate, until they are freed."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch would import its compiler, for seconds, only to keep it away from here

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known | given:
                    self._known.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return result

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
