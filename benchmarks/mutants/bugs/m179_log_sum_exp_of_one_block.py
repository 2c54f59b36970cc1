"""The backward of the ring starts from the log-sum-exp of the rank's own block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, split_sequences
from benchmarks.mutants.models.context_ways import AttentionLines

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = ContextLines(attention=AttentionLines(saved=lambda _every, own: own))


def plant(planted: bool) -> Configuration:
    context = Context(way="ring by hand", lines=WRONG if planted else ContextLines())
    return split_sequences("the log-sum-exp of all blocks", context, {"cp": 2})


BUG = Bug(
    id="M179",
    name="log-sum-exp-of-one-block",
    phase="B",
    seen_in="review: ring attention by hand",
    root="output gradient layers.0.attention.*",
    unexplained="what each block gives is recorded nowhere",
    plant=plant,
)
