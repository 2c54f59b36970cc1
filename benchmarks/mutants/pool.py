"""Jobs on worker processes: each result as it comes, and a job that takes too long is ended and said to have."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.mutants.jobs import Job, do

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

_SPAWN = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    connection: Connection
    job: Job | None = None
    started: float = 0.0

    def give(self, job: Job) -> None:
        self.job, self.started = job, time.monotonic()
        self.connection.send(job)

    def end(self) -> None:
        """End it with the ranks that it has forked: they are a session of their own."""
        pid = self.process.pid
        assert pid
        with suppress(ProcessLookupError):  # it may have begun no session yet, and then has no ranks
            os.killpg(pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()


def run_jobs(jobs: Sequence[Job], *, processes: int, timeout: float) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Each job with its result, in the order in which they end.

    Args:
        jobs: what to do.
        processes: how many at a time, each with one thread.
        timeout: seconds after which one is given up; its result is then a failure that says so.
    """
    waiting = list(reversed(jobs))
    workers = [_start() for _ in range(min(processes, len(jobs)))]
    try:
        for worker in workers:
            worker.give(waiting.pop())
        while any(worker.job for worker in workers):
            ready = wait([worker.connection for worker in workers if worker.job], timeout=1.0)
            for number, worker in enumerate(workers):
                job = worker.job
                if job is None:
                    continue
                result = None
                if worker.connection in ready:
                    result = _receive(worker.connection)
                elif time.monotonic() - worker.started > timeout:
                    result = {"failed": f"no end after {timeout:g} s", "seconds": timeout}
                if result is None:
                    continue
                if "failed" in result:
                    worker.end()
                    worker = workers[number] = _start()  # noqa: PLW2901 - it takes the place of the one that is gone
                worker.job = None
                if waiting:
                    worker.give(waiting.pop())
                yield job, result
    finally:
        for worker in workers:
            worker.end()


def _receive(connection: Connection) -> dict[str, Any]:
    try:
        result: dict[str, Any] = connection.recv()
    except EOFError:
        return {"failed": "its process ended: killed, or out of memory", "seconds": 0.0}
    return result


def _start() -> _Worker:
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_work, args=(theirs,))
    process.start()
    theirs.close()
    return _Worker(process=process, connection=ours)


def _work(connection: Connection) -> None:
    os.setsid()
    torch.set_num_threads(1)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # what it says of plans is not our table's business
    os.environ.setdefault("TORCH_LOGS", "-all")
    with suppress(EOFError):
        while True:
            connection.send(do(connection.recv()))
