"""Each block of the ring has the sinks in its sum, so that they count as often as there are ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, Sizes, split_sequences
from benchmarks.mutants.models.context_ways import AttentionLines

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.mutants.configuration import Configuration


def with_sinks(powers: Tensor, sinks: Tensor | None, now: Tensor) -> Tensor:
    total = powers.sum(-1, keepdim=True)
    return total if sinks is None else total + (sinks.view(-1, 1, 1) - now).exp()


WRONG = ContextLines(attention=AttentionLines(start=lambda _scores, _sinks: None, sum_block=with_sinks))


def plant(planted: bool) -> Configuration:
    context = Context(way="ring", sizes=Sizes(sinks=True), lines=WRONG if planted else ContextLines())
    return split_sequences("blocks with sinks", context, {"cp": 2})


BUG = Bug(
    id="M173",
    name="sinks-in-every-block",
    phase="F",
    seen_in="review: merging blocks of attention with sinks",
    root="input layers.0.attention.out",
    unexplained="how much the sinks take of each query is recorded nowhere",
    plant=plant,
)
