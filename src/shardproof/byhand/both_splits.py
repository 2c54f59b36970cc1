"""One rank's part of every step, split both ways: its shards of the layers, then its stage of a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.byhand.n_devices import train_on_rank
from shardproof.byhand.pipeline import train_on_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shardproof.byhand.data import Batch
    from shardproof.byhand.model import Layer
    from shardproof.byhand.n_devices import RankStep
    from shardproof.byhand.pipeline import StageStep
    from shardproof.byhand.settings import Settings
    from shardproof.worlds.communicator import Communicator

    TrainShards = Callable[[Communicator, Settings, Sequence[Layer], Sequence[Batch]], list[RankStep]]
    TrainStages = Callable[[Communicator, Settings, Sequence[Layer], Sequence[Batch]], list[StageStep]]


def train_both_ways(
    comm: Communicator,
    settings: Settings,
    sharded: Sequence[Layer],
    staged: Sequence[Layer],
    batches: Sequence[Batch],
    *,
    shards: TrainShards = train_on_rank,
    stages: TrainStages = train_on_stage,
) -> list[tuple[RankStep, StageStep]]:
    """Take one step for each batch in both ways, in one run: processes are expensive to start.

    Args:
        comm: this rank's communicator.
        settings: of the walkthrough.
        sharded: the full model from which the tensor-parallel steps go on.
        staged: the full model from which the pipeline's steps go on.
        batches: full batches, the same on every rank.
        shards: trains the one way; a known mistake gives another.
        stages: trains the other way.
    """
    return list(zip(shards(comm, settings, sharded, batches), stages(comm, settings, staged, batches), strict=True))
