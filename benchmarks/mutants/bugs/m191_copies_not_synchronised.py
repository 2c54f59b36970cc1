"""HSDP sums gradients over shards after every microbatch, and never over its copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.accumulation import Accumulation, AccumulationLines, accumulated
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = AccumulationLines(replicate=lambda _number, _parts: False)


def plant(planted: bool) -> Configuration:
    one = Accumulation(way="HSDP", every=True, lines=WRONG if planted else AccumulationLines())
    return accumulated("HSDP over microbatches", one, {"dp_replicate": 2, "dp_shard": 2})


BUG = Bug(
    id="M191",
    name="copies-not-synchronised",
    phase="B,R",
    seen_in="review: HSDP with set_requires_all_reduce",
    root="gradient *",
    cause=CauseKind.MISSING_GRADIENT,
    plant=plant,
)
