"""The candidate's ranks, as threads that take turns or as processes: the same per-rank code, and the same results."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shardproof.proving.running.candidate import run_training
from shardproof.proving.running.determinism import require_same_batch
from shardproof.proving.running.one_rank import Side, run_parallelized
from shardproof.proving.running.onethread import one_thread_if_small
from shardproof.worlds.processgroup import ProcessGroupCommunicator, say_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from shardproof.exact import ExactArithmetic
    from shardproof.proving.records import Recorded
    from shardproof.proving.running.request import Runs
    from shardproof.proving.running.subject import Subject
    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.spawned import SpawnedWorld
    from shardproof.worlds.threaded import ThreadedWorld

    Reload = Callable[[], Subject]


def run_in_threads(world: ThreadedWorld, subject: Subject, state: Mapping[str, Tensor], runs: Runs) -> list[Side]:
    """What each rank computed, in rank order.

    Raises:
        CannotRunError: a rank failed or came to no end.
    """
    return world.run(run_on_rank, subject, state, runs, runs.contexts())


def run_in_processes(world: SpawnedWorld, load: Reload, state: Mapping[str, Tensor], runs: Runs) -> list[Side]:
    """What each rank computed, in rank order; `load` is called in each process.

    Raises:
        CannotRunError: `load` cannot be sent to another process; a rank failed, died or came to no end.
    """
    return world.run(_run_in_process, load, dict(state), runs)


def run_on_rank(
    comm: Communicator,
    subject: Subject,
    state: Mapping[str, Tensor],
    runs: Runs,
    contexts: Sequence[ExactArithmetic],
    beat: Callable[[], None] = say_nothing,
) -> Side:
    """One rank's side, whichever way the user says what it does."""
    if subject.parallelize is not None:
        return run_parallelized(comm, subject.step, subject.parallelize, state, runs, contexts, beat)
    assert subject.candidate is not None
    return run_training(comm, subject.step, subject.candidate, state, runs, contexts, beat)


def _run_in_process(comm: Communicator, load: Reload, state: Mapping[str, Tensor], runs: Runs) -> Side:
    """Exact arithmetic is made here from its seeds; what goes back are the records without it."""
    assert isinstance(comm, ProcessGroupCommunicator)
    subject = load()
    require_same_batch(subject.step, runs.batch)
    comm.beat()
    with one_thread_if_small(state):
        side = run_on_rank(comm, subject, state, runs, runs.contexts(), comm.beat)
    return replace(
        side,
        trials=[replace(records, capture=_refuse) for records in side.trials],
        native={precision: replace(records, capture=_refuse) for precision, records in side.native.items()},
    )


def _refuse(_tensor: Tensor) -> Recorded:
    raise AssertionError("records from another process are complete")
