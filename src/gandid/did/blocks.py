"""Reading a panel some latents at a time, so that its size on disk is no matter of memory.

A panel opened lazily (``xarray.open_zarr(path, chunks=None)``) reads what is asked for and keeps nothing; every analysis here
asks for blocks of latents in the order in which they are stored, whole chunks of the storage at a time, and reduces each at
once. Blocks are worked on by threads: decoding and numpy's loops let go of the interpreter. Results come back in the order of
the blocks, so that sums do not depend on the number of threads.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import xarray as xr

# Values of a block, all variables together: the blocks under way are few megabytes, beside which nothing grows with the latents.
VALUES = 2**19
THREADS = min(4, os.cpu_count() or 1)

Result = TypeVar("Result")


def slices(panel: xr.Dataset, names: Sequence[str], values: int = VALUES) -> list[slice]:
    """Cut the latents into blocks of about `values` values of some variables, whole chunks of their storage each.

    Parameters
    ----------
    panel
        Lazily opened or in memory.
    names
        Variables along `latent`.
    values
        Values per block; a chunk that has more is a block nevertheless, so that none is decoded twice.

    Returns
    -------
    list of slice
        In the order of storage; together all latents, once.
    """
    total = panel.sizes["latent"]
    if total == 0:
        return []
    per_latent = sum(panel[name].size for name in names) // total
    chunk = max(_chunk(panel[name]) for name in names)
    rows = max(values // max(per_latent, 1) // chunk, 1) * chunk
    return [slice(start, min(start + rows, total)) for start in range(0, total, rows)]


def stream(work: Callable[[slice], Result], blocks: Sequence[slice], threads: int = THREADS) -> Iterator[Result]:
    """Apply `work` to blocks, in threads, and give the results in the blocks' order.

    No more than two blocks per thread are under way or waiting at any time.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for block in blocks:
            if len(waiting) == 2 * threads:
                yield waiting.popleft().result()
            waiting.append(pool.submit(work, block))
        while waiting:
            yield waiting.popleft().result()


def read(panel: xr.Dataset, name: str, block: slice, *dims: str) -> np.ndarray:
    """A variable's values of some latents; axes `latent` and then `dims`."""
    return panel[name].isel(latent=block).transpose("latent", *dims).values


def _chunk(variable: xr.DataArray) -> int:
    """Latents per chunk of a variable's storage; 1 where it is in memory."""
    chunks = variable.encoding.get("preferred_chunks", {})
    return int(chunks.get("latent", 1)) or 1
