"""A rank is sent one key less than its windows reach back into the shard before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, Sizes, split_sequences
from benchmarks.mutants.models.context_attention import Mask
from benchmarks.mutants.models.context_ways import AttentionLines

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = ContextLines(attention=AttentionLines(edge=lambda window: window - 2))


def plant(planted: bool) -> Configuration:
    sizes = Sizes(mask=Mask(window=5))
    context = Context(way="neighbour's keys", sizes=sizes, lines=WRONG if planted else ContextLines())
    return split_sequences("windows over the edge of a shard", context, {"cp": 2})


BUG = Bug(
    id="M170",
    name="window-one-short-at-the-edge",
    phase="F",
    seen_in="lm-engine#447: a window's offset between blocks",
    root="input layers.0.attention.out",
    unexplained="scores of so few keys have no like on one device",
    plant=plant,
)
