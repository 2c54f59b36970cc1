"""Recomputation draws another dropout mask than the forward did: the random state is not put back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.dropping import dropping_step, split_dropping
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import nn


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        return split_dropping(model, use_reentrant=False, preserve_rng_state=not planted)

    return sharded("dropout recomputed", dropping_step(), parallelize, 2, dropout=planted)


BUG = Bug(
    id="M91",
    name="recompute-other-mask",
    phase="B",
    seen_in="Megatron-LM, checkpointing without its RNG tracker",
    root="dropout mask drop*",
    cause=CauseKind.RECOMPUTED_MASK,
    plant=plant,
    shown_beside_right=True,
)
