"""In the backward of the ring the keys stay, and only the values go round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.models.context import Context, ContextLines, split_sequences
from benchmarks.mutants.models.context_ways import AttentionLines

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration


WRONG = ContextLines(attention=AttentionLines(backward_keys=lambda keys, _group: keys))


def plant(planted: bool) -> Configuration:
    context = Context(way="ring by hand", lines=WRONG if planted else ContextLines())
    return split_sequences("the keys of a ring, backward too", context, {"cp": 2})


BUG = Bug(
    id="M177",
    name="stale-keys-in-the-backward",
    phase="B",
    seen_in="diffusers#14265",
    root="output gradient layers.0.attention.*",
    unexplained="what each block gives is recorded nowhere",
    plant=plant,
)
