"""Processes: one for each case, several at once, each with a limit of time and of memory."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from shardproof.census.results import Outcome, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection

    from shardproof.census.results import Case

_PRELOADED = ["shardproof.census.one_case", "transformers.models.auto.modeling_auto", "transformers.modeling_utils"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of each process: seconds, and GiB of memory; how many run at once."""

    seconds: float = 300.0
    memory: float = 4.0
    jobs: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    case: Case
    process: Any
    connection: Connection
    started: float


def run_cases(cases: Iterable[Case], limits: Limits, work: Callable[[Case], Result] | None = None) -> Iterator[Result]:
    """The results in the order in which they come.

    The processes are forked from one that has imported PyTorch and transformers, which saves their start.

    Args:
        cases: which.
        limits: of each.
        work: what a process does, at the top of a module; `prove_case` if not given.
    """
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    waiting = iter(cases)
    running: list[_Running] = []
    try:
        while True:
            while len(running) < limits.jobs and (case := next(waiting, None)) is not None:
                running.append(_start(context, case, limits, work))
            if not running:
                return
            for one, result in _collect(running, limits):
                running.remove(one)
                yield result
    finally:
        for one in running:
            one.process.kill()
            one.process.join()


def _start(context: Any, case: Case, limits: Limits, work: Callable[[Case], Result] | None) -> _Running:
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sending, case, limits.memory, work), daemon=True)
    process.start()
    sending.close()
    return _Running(case=case, process=process, connection=receiving, started=time.monotonic())


def _collect(running: list[_Running], limits: Limits) -> list[tuple[_Running, Result]]:
    """Wait until at least one has ended or is over its time; those that have, with their results."""
    now = time.monotonic()
    left = max(0.0, min(one.started + limits.seconds for one in running) - now)
    ready = wait([one.connection for one in running], timeout=left)
    found = []
    for one in running:
        spent = time.monotonic() - one.started
        if one.connection in ready:
            found.append((one, _receive(one, spent)))
        elif spent >= limits.seconds:
            one.process.kill()
            one.process.join()
            said = f"not done after {limits.seconds:g} s"
            found.append((one, Result(case=one.case, outcome=Outcome.TIMEOUT, said=said, seconds=round(spent, 1))))
    return found


def _receive(one: _Running, spent: float) -> Result:
    try:
        result: Result = one.connection.recv()
    except EOFError:
        one.process.join()
        said = f"the process ended with exit code {one.process.exitcode}"
        return Result(case=one.case, outcome=Outcome.DIED, said=said, seconds=round(spent, 1))
    one.process.join()
    return result


def _work(sending: Connection, case: Case, memory: float, work: Callable[[Case], Result] | None) -> None:
    """In the process of one case."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    _limit_memory(memory)
    import torch

    torch.set_num_threads(1)
    if work is None:
        from shardproof.census.one_case import prove_case

        work = prove_case
    sending.send(work(case))
    sending.close()


def _limit_memory(gibibytes: float) -> None:
    """Let the process hold so much; where the system has such a limit."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    size = int(gibibytes * 2**30)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (size if most == resource.RLIM_INFINITY else min(size, most), most))
