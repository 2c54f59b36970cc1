"""Mutants and correct configurations on two processes; results come back in the order of the jobs."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Self, TypeVar

import torch

from benchmarks.mutants.bug import load_bugs
from benchmarks.mutants.correct import configurations
from benchmarks.mutants.matrix import Row, run_bug
from benchmarks.mutants.tried import Tried, try_configuration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.mutants.correct.configuration import Configuration

Result = TypeVar("Result")
PROCESSES = 2


class Pool:
    """A context in which jobs run; each process has one thread, and starts afresh (spawned)."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(PROCESSES, mp_context=context, initializer=_prepare)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def run_bugs(self, ids: Sequence[str]) -> Iterator[Row]:
        """The rows of the kill matrix."""
        return self._run(_run_bug, ids)

    def try_configurations(self, numbers: Sequence[int]) -> Iterator[Tried]:
        """What became of correct configurations, by their numbers."""
        return self._run(_try_configuration, numbers)

    def _run(self, job: Callable[[object], Result], given: Sequence[object]) -> Iterator[Result]:
        started = time.perf_counter()
        for done, result in enumerate(self._executor.map(job, given), 1):
            _show(f"{done} of {len(given)}, {time.perf_counter() - started:.0f} s", last=done == len(given))
            yield result


def _show(text: str, *, last: bool) -> None:
    """Progress on one line of the terminal; nothing where it is none."""
    if sys.stderr.isatty():
        print(f"\r{text}", end="\n" if last else "", file=sys.stderr, flush=True)


def _prepare() -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # what it says of plans is not our table's business


@cache
def _configurations() -> list[Configuration]:
    return configurations()


def _run_bug(wanted: object) -> Row:
    row = run_bug(next(bug for bug in load_bugs() if bug.id == wanted))
    return replace(row, bug=replace(row.bug, change=None))  # a lambda cannot be sent


def _try_configuration(number: object) -> Tried:
    assert isinstance(number, int)
    return try_configuration(_configurations()[number])
