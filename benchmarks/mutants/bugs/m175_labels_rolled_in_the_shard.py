"""Labels are rolled inside each shard: its last token is to predict the shard's first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import IGNORED, Context, ContextLines, Sequences, split, split_sequences
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from benchmarks.mutants.configuration import Configuration


def rolled(all_of: Sequences, cut: Callable[..., Tensor], rank: int, ranks: int) -> Sequences:
    own = split(all_of, cut, rank, ranks)
    return own._replace(labels=own.ids.roll(-1, 1).where(own.labels != IGNORED, IGNORED))


WRONG = ContextLines(split=rolled)


def plant(planted: bool) -> Configuration:
    context = Context(way="gathered keys", lines=WRONG if planted else ContextLines())
    return split_sequences("labels of the token after", context, {"cp": 2})


BUG = Bug(
    id="M175",
    name="labels-rolled-in-the-shard",
    phase="F",
    seen_in="verl#4250",
    root="loss loss",
    cause=CauseKind.OTHER_LABELS,
    plant=plant,
)
