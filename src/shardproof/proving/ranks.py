"""The candidate's ranks, as threads that take turns or as processes: the same per-rank code, and the same results."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from shardproof.exact import ExactArithmetic
from shardproof.proving.sides import Side, run_candidate
from shardproof.worlds.processgroup import ProcessGroupCommunicator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.records import Recorded
    from shardproof.proving.sides import Parallelize
    from shardproof.proving.step import Step
    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.spawned import SpawnedWorld
    from shardproof.worlds.threaded import ThreadedWorld

    Reload = Callable[[], tuple[Step, Parallelize]]


def run_in_threads(
    world: ThreadedWorld,
    step: Step,
    parallelize: Parallelize,
    state: Mapping[str, Tensor],
    seeds: Sequence[int],
    seed: int,
) -> list[Side]:
    """What each rank computed, in rank order.

    Raises:
        CannotRunError: a rank failed or came to no end.
    """
    return world.run(run_candidate, step, parallelize, state, [ExactArithmetic(seed=s) for s in seeds], seed)


def run_in_processes(
    world: SpawnedWorld, load: Reload, state: Mapping[str, Tensor], seeds: Sequence[int], seed: int
) -> list[Side]:
    """What each rank computed, in rank order; `load` is called in each process.

    Raises:
        CannotRunError: `load` cannot be sent to another process; a rank failed, died or came to no end.
    """
    return world.run(_run_in_process, load, dict(state), tuple(seeds), seed)


class Sent:
    """The step and its sharding as they are, for where they can be pickled."""

    def __init__(self, step: Step, parallelize: Parallelize) -> None:
        self._sides = (step, parallelize)

    def __call__(self) -> tuple[Step, Parallelize]:
        return self._sides


def _run_in_process(
    comm: Communicator, load: Reload, state: Mapping[str, Tensor], seeds: Sequence[int], seed: int
) -> Side:
    """Exact arithmetic is made here from its seeds; what goes back are the records without it."""
    assert isinstance(comm, ProcessGroupCommunicator)
    step, parallelize = load()
    comm.beat()
    trials = [ExactArithmetic(seed=s) for s in seeds]
    side = run_candidate(comm, step, parallelize, state, trials, seed, comm.beat)
    return replace(
        side,
        trials=[replace(records, capture=_refuse) for records in side.trials],
        native={dtype: replace(records, capture=_refuse) for dtype, records in side.native.items()},
    )


def _refuse(_tensor: Tensor) -> Recorded:
    raise AssertionError("records from another process are complete")
