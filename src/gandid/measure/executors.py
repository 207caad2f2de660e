"""Executors: where tasks are measured. Each yields the results in the order of the tasks, whatever finishes first."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gandid.errors import GandidError, UsageError, first_line
from gandid.factory import user_modules
from gandid.measure.worker import Rows, Setting, Task, Worker
from gandid.threads import in_threads

ATTEMPTS = 3  # at a task, before it is given up
AHEAD = 4  # tasks per worker that may be under way or wait for an earlier one


@dataclass(frozen=True)
class Failed:
    """A task that could not be measured, and why."""

    reason: str


class Executor(Protocol):
    """Measures tasks."""

    def map(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[tuple[Task, Rows | Failed]]:
        """Yield every task with what was measured, in order, by workers of a setting."""
        ...


class Local:
    """Measures in this process, in as many threads as the setting says; the first error ends the study."""

    def __init__(self) -> None:
        self._kept: tuple[Setting | None, list[Worker]] = None, []

    def map(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[tuple[Task, Rows | Failed]]:
        """See `Executor`."""
        if tasks:
            yield from zip(tasks, in_threads(Worker.measure, tasks, self.start(setting, len(tasks))), strict=True)

    def start(self, setting: Setting, tasks: int) -> list[Worker]:
        """The workers for so many tasks, one for each thread: those of before, where they are of the same setting and enough."""
        number = min(setting.workers, tasks)
        if self._kept[0] is not setting or len(self._kept[1]) < number:
            copies = [setting.copied() for _ in range(number - 1)]
            self._kept = setting, [Worker(one) for one in (setting, *copies)]
        return self._kept[1][:number]


class Ray:
    """Measures on a Ray cluster: each worker is an actor that holds the networks.

    Ray restarts an actor that is lost and repeats its tasks; `ray.util.ActorPool` keeps the order. A task that fails `ATTEMPTS` times
    is yielded as `Failed`.

    Parameters
    ----------
    address : str, optional
        Address of a running cluster (`auto` finds one on this machine); None starts one on this machine for the time of the study.
    workers : int
        Number of workers.
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

    def map(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[tuple[Task, Rows | Failed]]:
        """See `Executor`."""
        if not tasks:
            return
        started = self._connect()
        try:
            yield from self._map(setting, tasks)
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
        except Exception as error:  # where a cluster does not start in time, Ray raises no kind of its own
            what = f"no Ray cluster at '{self.address}'" if self.address else "no Ray cluster could be started here"
            raise UsageError(
                f"{what} ({first_line(error)}): start one with 'ray start', or leave out --executor"
            ) from error
        return True

    def _map(self, setting: Setting, tasks: Sequence[Task]) -> Iterator[tuple[Task, Rows | Failed]]:
        ray = self._ray
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)) // self.workers)
        restart: dict[str, Any] = dict(max_restarts=-1, max_task_retries=ATTEMPTS - 1)
        actor = ray.remote(num_cpus=cpus, num_gpus=self.gpus_per_worker, **restart)(_Actor)
        for module in user_modules():
            ray.cloudpickle.register_pickle_by_value(module)
        kept = ray.put(setting)  # the networks travel once per machine
        actors = [actor.remote(kept) for _ in range(min(self.workers, len(tasks)))]
        try:
            yield from self._taken(actors, tasks)
        finally:
            for worker in actors:
                ray.kill(worker)

    def _taken(self, actors: list[Any], tasks: Sequence[Task]) -> Iterator[tuple[Task, Rows | Failed]]:
        from ray.util import ActorPool

        ray = self._ray
        # Each is in the pool several times: none waits for the others while the results are taken in order.
        pool = ActorPool(actors * AHEAD)
        for task in tasks:
            pool.submit(lambda worker, one: worker.measure.options(retry_exceptions=True).remote(one), task)
        for task in tasks:
            try:
                yield task, pool.get_next()
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, GandidError):  # what no repetition mends
                    raise error.cause from None
                yield task, Failed(_reason(error))
            except ray.exceptions.RayError as error:
                yield task, Failed(_reason(error))


class _Actor:
    """A worker in a process of its own, which the cluster places."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.worker: Worker | None = None

    def measure(self, task: Task) -> Rows:
        self.worker = self.worker or Worker(
            self.setting
        )  # here, so that what it refuses is an answer and no lost actor
        return self.worker.measure(task)


def _reason(error: Exception) -> str:
    """The last line of what a worker raised."""
    return str(error).strip().splitlines()[-1].strip()
