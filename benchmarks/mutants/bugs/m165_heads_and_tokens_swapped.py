"""What comes of each rank in the exchange of heads for tokens is put together token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, split_sequences
from benchmarks.mutants.models.context_ways import AttentionLines, exchange

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from benchmarks.mutants.configuration import Configuration


def interleaved(x: Tensor, scatter: int, gather: int, group: ProcessGroup) -> Tensor:
    found = exchange(x, scatter, gather, group)
    return found.unflatten(gather, (group.size(), -1)).transpose(gather, gather + 1).flatten(gather, gather + 1)


WRONG = ContextLines(attention=AttentionLines(by=interleaved))


def plant(planted: bool) -> Configuration:
    context = Context(way="Ulysses", lines=WRONG if planted else ContextLines())
    return split_sequences("tokens of all ranks, some heads", context, {"cp": 2})


BUG = Bug(
    id="M165",
    name="heads-and-tokens-swapped",
    phase="F",
    seen_in="review: Ulysses by hand",
    root="input layers.0.attention/softmax",
    unexplained="an order of the scores' tokens in which the mask is another too",
    plant=plant,
)
