"""The transformer sharded by hand, Megatron style, as the bugs have it but without one."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.mutants.block import Sizes
from benchmarks.mutants.configuration import sharded
from benchmarks.mutants.lines import Lines
from benchmarks.mutants.sharded import shard
from benchmarks.mutants.steps import OPTIMIZERS, make_step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.mutants.configuration import Configuration

# Sizes that the ranks can share: heads divide, the sequence too; vocabulary and the MLP's width need not.
SIZES = {
    2: [Sizes(), Sizes(kv_heads=1, vocabulary=7, intermediate=9), Sizes(layers=2)],
    3: [Sizes(heads=3, kv_heads=3, sequence=9), Sizes(heads=6, kv_heads=1, sequence=6, vocabulary=11)],
    4: [Sizes(), Sizes(heads=4, kv_heads=4, intermediate=7)],
    5: [Sizes(heads=5, kv_heads=5, sequence=5, batch=3, intermediate=12)],
    6: [Sizes(heads=6, kv_heads=2, sequence=6, smoothing=0.0)],
    8: [Sizes(heads=8, kv_heads=2), Sizes(heads=8, kv_heads=8, intermediate=9)],
}


def configurations() -> Iterator[Configuration]:
    """Every size tied and untied, with and without sequence parallelism; the optimizers in turn."""
    optimizers = itertools.cycle(OPTIMIZERS)
    for devices, all_sizes in SIZES.items():
        for number, sizes in enumerate(all_sizes, 1):
            for tied, sequence in itertools.product((True, False), (False, True)):
                optimizer = next(optimizers)
                words = ["tied" if tied else "untied", *(["sequence parallel"] if sequence else []), optimizer]
                step = make_step(replace(sizes, tied=tied), optimizer=OPTIMIZERS[optimizer], steps=2)
                name = f"by hand, sizes {number}, {', '.join(words)}"
                yield sharded(name, step, shard(Lines(), sequence_parallel=sequence), devices)
