"""Labels are shifted inside each shard, so that its last token, whose successor another rank has, has none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, Sequences, shift_labels, split, split_sequences
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from benchmarks.mutants.configuration import Configuration


def shifted_inside(all_of: Sequences, cut: Callable[..., Tensor], rank: int, ranks: int) -> Sequences:
    own = split(all_of, cut, rank, ranks)
    return own._replace(labels=shift_labels(own.ids, own.documents))


WRONG = ContextLines(split=shifted_inside)


def plant(planted: bool) -> Configuration:
    context = Context(way="gathered keys", lines=WRONG if planted else ContextLines())
    return split_sequences("labels shifted before the split", context, {"cp": 4})


BUG = Bug(
    id="M194",
    name="edge-labels-dropped",
    phase="F",
    seen_in="bionemo-recipes#1449, in contiguous shards",
    root="loss loss",
    cause=CauseKind.FEWER_POSITIONS_COUNT,
    plant=plant,
)
