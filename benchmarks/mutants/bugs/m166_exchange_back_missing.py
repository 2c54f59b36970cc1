"""The backward of the exchange of heads for tokens does not exchange: each rank goes on with what it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, split_sequences
from benchmarks.mutants.models.context_ways import AttentionLines

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from benchmarks.mutants.configuration import Configuration


class Forward(torch.autograd.Function):
    """All-to-all forward; backward a rank's own tokens of its own heads, for all heads."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scatter: int, gather: int, group: ProcessGroup, by: Any) -> Tensor:
        ctx.given = scatter, gather, group
        return by(x, scatter, gather, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        scatter, gather, group = ctx.given
        own = gradient.chunk(group.size(), gather)[group.rank()]
        return torch.cat([own] * group.size(), scatter), None, None, None, None


WRONG = ContextLines(attention=AttentionLines(exchange=Forward.apply))


def plant(planted: bool) -> Configuration:
    context = Context(way="Ulysses", lines=WRONG if planted else ContextLines())
    return split_sequences("heads for tokens, backward too", context, {"cp": 2})


BUG = Bug(
    id="M166",
    name="exchange-back-missing",
    phase="B",
    seen_in="review: an all-to-all without its backward",
    root="output gradient layers.0.attention*",
    unexplained="gradients of other ranks' heads are recorded on no rank",
    plant=plant,
)
