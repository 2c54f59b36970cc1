"""The ring leaves the sinks out of the softmax: their gradient is zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, Sizes, split_sequences
from benchmarks.mutants.models.context_ways import AttentionLines, after_sinks

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.mutants.configuration import Configuration


def without(scores: Tensor, sinks: Tensor | None) -> Any:
    start = after_sinks(scores, sinks)
    return None if start is None else (start[0], start[1] * 0.0)


WRONG = ContextLines(attention=AttentionLines(start=without))


def plant(planted: bool) -> Configuration:
    context = Context(way="ring", sizes=Sizes(sinks=True), lines=WRONG if planted else ContextLines())
    return split_sequences("a ring with sinks", context, {"cp": 2})


BUG = Bug(
    id="M172",
    name="sinks-discarded",
    phase="F",
    seen_in="TransformerEngine#3551, prime-rl#3397",
    root="input layers.0.attention.out",
    unexplained="how much the sinks take of each query is recorded nowhere",
    plant=plant,
)
