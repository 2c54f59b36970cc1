"""Sequences split over ranks: Ulysses, gathered keys, rings; documents, windows, sinks, padding; beside dp and tp."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.mutants.models.context import LENGTH, Context, ContextLines, Sizes, split_sequences, zigzag
from benchmarks.mutants.models.context_attention import Mask
from benchmarks.mutants.models.context_ways import WAYS, AttentionLines, exchange_functionally, exchange_lists
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.mutants.configuration import Configuration

WHOLE = Sizes(places=LENGTH)  # a row is one document
WINDOW = Sizes(mask=Mask(window=5))
SINKS = Sizes(sinks=True, mask=Mask(window=5))
LISTS = ContextLines(attention=AttentionLines(by=exchange_lists))
FUNCTIONAL = ContextLines(attention=AttentionLines(exchange=exchange_functionally))
PLAIN = ("Ulysses", "gathered keys", "ring", "ring by hand")  # each for any mask


def configurations() -> Iterator[Configuration]:
    """Every way on 2 and 4 ranks, then what only some of them have; the optimizers in turn."""
    optimizers = itertools.cycle(("SGD", "AdamW", "momentum", "Adam"))

    def make(name: str, context: Context, mesh: dict[str, int]) -> Configuration:
        optimizer = next(optimizers)
        context = replace(context, optimizer=MORE_OPTIMIZERS[optimizer])
        return split_sequences(f"split sequences by {context.way}, {name}, {optimizer}", context, mesh)

    for way, ranks in itertools.product(WAYS, (2, 4)):
        sizes = WINDOW if way == "neighbour's keys" else Sizes()
        yield make("documents", Context(way=way, sizes=sizes), {"cp": ranks})
    for way in PLAIN:
        yield make("one document", Context(way=way, sizes=WHOLE), {"cp": 2})
        yield make("windows", Context(way=way, sizes=WINDOW), {"cp": 4})
        yield make("head and tail", Context(way=way, order=zigzag), {"cp": 2})
        yield make("one document, head and tail", Context(way=way, order=zigzag, sizes=WHOLE), {"cp": 4})
    for way in ("Ulysses", "gathered keys", "ring", "blocks in order", "neighbour's keys"):
        yield make("sinks and windows", Context(way=way, sizes=SINKS), {"cp": 2})
        if way != "neighbour's keys":
            yield make("padding", Context(way=way, padded=True), {"cp": 2})
    first = Sizes(places=LENGTH, mask=Mask(window=3, first=2))
    for way in ("gathered keys", "blocks in order"):
        yield make("the first tokens in every window", Context(way=way, sizes=first), {"cp": 4})
    for ranks in (2, 4):
        yield make("lists", Context(way="Ulysses", lines=LISTS), {"cp": ranks})
        yield make("functional", Context(way="Ulysses", lines=FUNCTIONAL), {"cp": ranks})
        yield make("shared keys", Context(way="Ulysses", sizes=Sizes(kv_heads=2)), {"cp": ranks})
    for way in ("gathered keys", "ring"):
        yield make("shared keys", Context(way=way, sizes=Sizes(kv_heads=1)), {"cp": 2})
    for way in PLAIN:
        yield make("rows", Context(way=way, rows=4), {"dp": 2, "cp": 2})
        yield make("columns and rows of weights", Context(way=way), {"cp": 2, "tp": 2})
        yield make("FSDP2, clipped", Context(way=way, sizes=WHOLE, sharded=True, clipped=True), {"cp": 2})
    for way in ("Ulysses", "ring"):
        yield make("FSDP2, rows", Context(way=way, rows=4, sizes=WHOLE, sharded=True), {"dp": 2, "cp": 2})
        deep = Sizes(layers=2, tied=True)
        yield make("two layers, tied, clipped", Context(way=way, sizes=deep, steps=2, clipped=True), {"cp": 2})
