"""With heads for tokens each rank takes the sinks of the first heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, Sizes, split_sequences
from benchmarks.mutants.models.context_ways import AttentionLines

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = ContextLines(attention=AttentionLines(own_sinks=lambda sinks, _rank, ranks: sinks.chunk(ranks)[0]))


def plant(planted: bool) -> Configuration:
    context = Context(way="Ulysses", sizes=Sizes(sinks=True), lines=WRONG if planted else ContextLines())
    return split_sequences("sinks of own heads", context, {"cp": 2})


BUG = Bug(
    id="M174",
    name="sinks-of-first-heads",
    phase="F",
    seen_in="review: sinks under Ulysses",
    root="input layers.0.attention*",
    unexplained="scores and sinks stand in one row, of which a part is another's",
    plant=plant,
)
