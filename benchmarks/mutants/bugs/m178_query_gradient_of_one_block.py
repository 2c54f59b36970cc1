"""The gradient of the queries is that of the last block of the ring alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, split_sequences
from benchmarks.mutants.models.context_ways import AttentionLines

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = ContextLines(attention=AttentionLines(sum_query_gradients=lambda blocks: blocks[-1]))


def plant(planted: bool) -> Configuration:
    context = Context(way="ring by hand", lines=WRONG if planted else ContextLines())
    return split_sequences("query gradients of all blocks", context, {"cp": 2})


BUG = Bug(
    id="M178",
    name="query-gradient-of-one-block",
    phase="B",
    seen_in="Megatron-LM#1464",
    root="output gradient layers.0.attention.q",
    unexplained="what each block gives is recorded nowhere",
    plant=plant,
)
