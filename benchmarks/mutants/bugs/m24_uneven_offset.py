"""Sizes of the shards round up, offsets round down: inputs of the row-parallel layer overlap."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.lines import Place, own_range
from shardproof.proving.cause import CauseKind


def own_columns(length: int, place: Place) -> slice:
    """As many as `own_range` gives, from an offset rounded down."""
    right = own_range(length, place)
    start = place.rank * (length // place.size)
    return slice(start, start + right.stop - right.start)


BUG = Bug(
    id="M24",
    name="uneven-offset",
    phase="F",
    seen_in="pytorch#194457, #144109",
    line="own_columns",
    change=own_columns,
    devices=4,
    root="initial parameter layers.0.mlp.down.weight",
    cause=CauseKind.SHARD_OFFSETS,
)
