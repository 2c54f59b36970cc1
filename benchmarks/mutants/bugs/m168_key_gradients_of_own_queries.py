"""Gradients of gathered keys and values are cut, not summed: a rank keeps what its own queries give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, split_sequences
from benchmarks.mutants.models.context_ways import TOKENS, AttentionLines, Gathered

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.mutants.configuration import Configuration


class Cut(Gathered):
    """All-gather forward; backward a rank's own part of its own gradient."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.chunk(ctx.group.size(), TOKENS)[ctx.group.rank()], None


WRONG = ContextLines(attention=AttentionLines(gather=Cut.apply))


def plant(planted: bool) -> Configuration:
    context = Context(way="gathered keys", lines=WRONG if planted else ContextLines())
    return split_sequences("gathered keys, backward too", context, {"cp": 2})


BUG = Bug(
    id="M168",
    name="key-gradients-of-own-queries",
    phase="B",
    seen_in="Megatron-Bridge#4784",
    root="output gradient layers.0.attention.*",
    unexplained="what other ranks' queries give a key is recorded on no rank",
    plant=plant,
)
