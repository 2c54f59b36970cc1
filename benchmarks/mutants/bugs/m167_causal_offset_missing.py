"""The causal mask of a rank's queries counts from its first token, beside the keys of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import LENGTH, Context, ContextLines, Sizes, split_sequences
from benchmarks.mutants.models.context_attention import Tokens
from benchmarks.mutants.models.context_ways import AttentionLines

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


def from_zero(own: Tokens) -> Tokens:
    return Tokens(own.index - own.index[:, :1], own.document)


WRONG = ContextLines(attention=AttentionLines(queries=from_zero))


def plant(planted: bool) -> Configuration:
    context = Context(way="gathered keys", sizes=Sizes(places=LENGTH), lines=WRONG if planted else ContextLines())
    return split_sequences("gathered keys under a causal mask", context, {"cp": 2})


BUG = Bug(
    id="M167",
    name="causal-offset-missing",
    phase="F",
    seen_in="review: context parallelism by gathered keys",
    root="input layers.0.attention/softmax",
    unexplained="the mask of a rank's queries is a tensor of no name",
    plant=plant,
)
