"""Sums of blocks before are not rescaled, so that a block of which nothing is seen counts as equal scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import LENGTH, Context, ContextLines, Sizes, split_sequences
from benchmarks.mutants.models.context_attention import Mask
from benchmarks.mutants.models.context_ways import AttentionLines

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = ContextLines(attention=AttentionLines(rescale=torch.ones_like))


def plant(planted: bool) -> Configuration:
    sizes = Sizes(places=LENGTH, mask=Mask(window=4))
    context = Context(way="blocks in order", sizes=sizes, lines=WRONG if planted else ContextLines())
    return split_sequences("blocks that a window hides", context, {"cp": 2})


BUG = Bug(
    id="M171",
    name="masked-block-counts",
    phase="F",
    seen_in="review: online softmax with finfo.min",
    root="input layers.0.attention.out",
    unexplained="the sums of single blocks are recorded nowhere",
    plant=plant,
)
