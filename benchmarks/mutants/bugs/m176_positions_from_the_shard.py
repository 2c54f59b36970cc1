"""Positions are counted from the first token of each shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import LENGTH, Context, ContextLines, Sequences, Sizes, split, split_sequences
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from benchmarks.mutants.configuration import Configuration


def counted(all_of: Sequences, cut: Callable[..., Tensor], rank: int, ranks: int) -> Sequences:
    own = split(all_of, cut, rank, ranks)
    return own._replace(positions=own.index - own.index[:, :1])


WRONG = ContextLines(split=counted)


def plant(planted: bool) -> Configuration:
    context = Context(way="Ulysses", sizes=Sizes(places=LENGTH), lines=WRONG if planted else ContextLines())
    return split_sequences("positions in the whole sequence", context, {"cp": 2})


BUG = Bug(
    id="M176",
    name="positions-from-the-shard",
    phase="F",
    seen_in="review: position ids where sequences are split",
    root="output place",
    cause=CauseKind.SHARD_ORDER,
    plant=plant,
)
