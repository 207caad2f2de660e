"""Executors: where the chunks of a study are measured. Each yields results in the order of the chunks, whatever finishes first."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gandid.errors import UsageError
from gandid.factory import user_modules
from gandid.studies.worker import Worker

Chunk = tuple[int, ...]  # latents by number
Measured = dict[str, np.ndarray]

ATTEMPTS = 3  # at a chunk, before it is given up
AHEAD = 4  # chunks per worker that may be under way or wait for an earlier one


@dataclass(frozen=True)
class Failed:
    """A chunk that could not be measured, and why."""

    reason: str


class Executor(Protocol):
    """Measures chunks of latents."""

    def map(self, make: Callable[[], Worker], chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Measured | Failed]]:
        """Yield every chunk with its measurements, in order; `make` builds a worker."""
        ...


class Local:
    """Measures in this process; the first error ends the study."""

    def map(self, make: Callable[[], Worker], chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Measured | Failed]]:
        """See `Executor`."""
        if chunks:
            worker = make()
            for chunk in chunks:
                yield chunk, worker.measure(chunk)


class Ray:
    """Measures on a Ray cluster: each worker is an actor that holds the networks, a chunk is a task.

    A worker that is lost is replaced, and its chunk is measured by another. A chunk that fails `ATTEMPTS` times is given up and
    yielded as `Failed`.

    Parameters
    ----------
    address : str, optional
        Of a running cluster (`auto` finds one on this machine); None starts one on this machine for the time of the study.
    workers : int
        How many.
    gpus_per_worker : float
        0 for workers on processors; a fraction lets workers share a GPU.

    Raises
    ------
    UsageError
        If Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str | None = None, workers: int = 1, gpus_per_worker: float = 0.0):
        try:
            import ray
        except ImportError:
            raise UsageError("the executor ray needs Ray: pip install 'gandid[cluster]'") from None
        self._ray: Any = ray
        self.address, self.workers, self.gpus_per_worker = address, workers, gpus_per_worker

    def map(self, make: Callable[[], Worker], chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Measured | Failed]]:
        """See `Executor`."""
        if not chunks:
            return
        started = self._connect()
        try:
            yield from self._map(make, chunks)
        finally:
            if started:
                self._ray.shutdown()

    def _connect(self) -> bool:
        """Join the cluster, or start one; whether it is ours to shut down."""
        ray = self._ray
        if ray.is_initialized():
            return False
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        here: dict[str, Any] = dict(address="local", include_dashboard=False, _node_ip_address="127.0.0.1")
        where = {"address": self.address} if self.address else here
        try:
            host, _, port = (self.address or "").partition(":")
            if port.isdigit():  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(log_to_driver=False, logging_level="ERROR", **where)
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster at '{self.address}': {' '.join(str(error).split())}") from error
        return True

    def _map(self, make: Callable[[], Worker], chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Measured | Failed]]:
        ray = self._ray
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)) // self.workers)
        actor = ray.remote(num_cpus=cpus, num_gpus=self.gpus_per_worker)(_Actor)
        for module in user_modules():
            ray.cloudpickle.register_pickle_by_value(module)
        makes = ray.put(make)  # the networks travel once per machine
        idle = [actor.remote(makes) for _ in range(min(self.workers, len(chunks)))]
        waiting, attempts = list(range(len(chunks))), [0] * len(chunks)
        running: dict[Any, tuple[int, Any]] = {}
        finished: dict[int, Measured | Failed] = {}
        following = 0  # the chunk that is to be yielded next
        while following < len(chunks):
            while idle and waiting and waiting[0] < following + AHEAD * self.workers:
                index, worker = waiting.pop(0), idle.pop()
                attempts[index] += 1
                running[worker.measure.remote(chunks[index])] = index, worker
            (done,), _ = ray.wait(list(running))
            index, worker = running.pop(done)
            try:
                finished[index] = ray.get(done)
            except ray.exceptions.RayError as error:
                if isinstance(error, ray.exceptions.RayActorError):
                    worker = actor.remote(makes)
                if attempts[index] < ATTEMPTS:
                    waiting.insert(0, index)
                else:
                    finished[index] = Failed(_reason(error))
            idle.append(worker)
            while following in finished:
                yield chunks[following], finished.pop(following)
                following += 1
        for worker in idle:
            ray.kill(worker)


class _Actor:
    """A worker in a process of its own, which the cluster places."""

    def __init__(self, make: Callable[[], Worker]):
        self.worker = make()

    def measure(self, numbers: Chunk) -> Measured:
        return self.worker.measure(numbers)


def _reason(error: Exception) -> str:
    """The last line of what a worker raised."""
    return str(error).strip().splitlines()[-1].strip()
