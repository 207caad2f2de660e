"""Several threads that each work on a copy of the networks: small maps keep a core busy, but are too small to share among cores."""

from __future__ import annotations

import copy
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn

Item = TypeVar("Item")
Result = TypeVar("Result")
Network = TypeVar("Network")

# Whose modules are functions of their weights: a copy may run beside another.
KNOWN = ("gandid", "torch", "transformers")
AHEAD = 2  # items per thread that may be under way or wait for an earlier one


def can_be_copied(networks: Iterable[object]) -> bool:
    """Whether copies of networks may run at the same time: of code that is not ours nobody knows what it shares."""
    return all(
        isinstance(network, nn.Module)
        and all(type(module).__module__.split(".")[0] in KNOWN for module in network.modules())
        and not hasattr(network, "function")  # the user's, which every copy would call
        for network in networks
    )


def copied(network: Network) -> Network:
    """A copy of a network that has the same weights: not others like them, but the same memory."""
    weights = chain(network.parameters(), network.buffers()) if isinstance(network, nn.Module) else ()
    return copy.deepcopy(network, {id(tensor): tensor for tensor in weights})


def in_threads(work: Callable[[Any, Item], Result], items: Sequence[Item], replicas: Sequence[Any]) -> Iterator[Result]:
    """Yield `work(replica, item)` of every item, in their order, by one thread for each replica.

    The threads share what PyTorch may use of the processor, and compute in the precision of the one that asks.
    """
    if len(replicas) == 1 or len(items) < 2:
        yield from (work(replicas[0], item) for item in items)
        return
    threads, free = torch.get_num_threads(), queue.SimpleQueue[Any]()
    for replica in replicas:
        free.put(replica)
    precision: dict[str, Any] = {"dtype": torch.get_autocast_dtype("cpu"), "enabled": torch.is_autocast_enabled("cpu")}

    def one(item: Item) -> Result:
        replica = free.get()
        try:
            with torch.autocast("cpu", **precision):
                return work(replica, item)
        finally:
            free.put(replica)

    each = max(1, threads // len(replicas))
    pool = ThreadPoolExecutor(len(replicas), initializer=torch.set_num_threads, initargs=(each,))
    under_way: deque[Future[Result]] = deque()
    try:
        for item in items:
            under_way.append(pool.submit(one, item))
            if len(under_way) > AHEAD * len(replicas):
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
