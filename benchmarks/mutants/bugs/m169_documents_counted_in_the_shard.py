"""Each rank numbers the documents of its own tokens, so that documents of two ranks have one number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, split_sequences
from benchmarks.mutants.models.context_attention import Tokens
from benchmarks.mutants.models.context_ways import AttentionLines, all_tokens

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from benchmarks.mutants.configuration import Configuration


def renumbered(own: Tokens) -> Tokens:
    edges = own.document[:, 1:] != own.document[:, :-1]
    return Tokens(own.index, F.pad(edges, (1, 0)).cumsum(1))


def keys(own: Tokens, group: ProcessGroup) -> Tokens:
    return all_tokens(renumbered(own), group)


WRONG = ContextLines(attention=AttentionLines(queries=renumbered, keys=keys))


def plant(planted: bool) -> Configuration:
    context = Context(way="gathered keys", lines=WRONG if planted else ContextLines())
    return split_sequences("packed documents over shards", context, {"cp": 2})


BUG = Bug(
    id="M169",
    name="documents-counted-in-the-shard",
    phase="F",
    seen_in="trl#6843: packed documents see one another where sequences are split",
    root="input layers.0.attention/softmax",
    unexplained="the mask is a tensor of no name",
    plant=plant,
)
