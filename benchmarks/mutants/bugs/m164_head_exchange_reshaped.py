"""The exchange of tokens for heads is reshaped to the right sizes with the dims in the wrong order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, split_sequences
from benchmarks.mutants.models.context_ways import HEADS, AttentionLines, exchange

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from benchmarks.mutants.configuration import Configuration


def reshaped(x: Tensor, scatter: int, gather: int, group: ProcessGroup) -> Tensor:
    found = exchange(x, scatter, gather, group)
    if scatter == HEADS:
        return found
    parts = found.unflatten(HEADS, (group.size(), -1)).movedim(HEADS, 0)  # as the ranks have sent them
    return parts.reshape(found.shape)


WRONG = ContextLines(attention=AttentionLines(by=reshaped))


def plant(planted: bool) -> Configuration:
    context = Context(way="Ulysses", lines=WRONG if planted else ContextLines())
    return split_sequences("heads for tokens and back", context, {"cp": 2})


BUG = Bug(
    id="M164",
    name="head-exchange-reshaped",
    phase="F",
    seen_in="DeepSpeed#8317",
    root="input layers.0.attention.out",
    unexplained="elements of other tokens stand in a row, and no relation looks for that",
    plant=plant,
)
