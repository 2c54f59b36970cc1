"""ZeRO by hand over flat parameters, and gradients accumulated over DDP, FSDP2 and HSDP, with factors and dtypes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from benchmarks.mutants.models.accumulation import Accumulation, accumulated
from benchmarks.mutants.models.zero import Zero, by_parts
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.mutants.configuration import Configuration

COPIES = {"dp_replicate": 2, "dp_shard": 2}


def configurations() -> Iterator[Configuration]:
    """The stages of ZeRO with one buffer and several; then accumulation, the optimizers in turn."""
    optimizers = itertools.cycle(("SGD", "AdamW", "momentum", "Adam"))

    for stage, ranks in itertools.product((1, 2), (2, 4)):
        for name, zero in {
            "one buffer": Zero(),
            "three buffers, clipped": Zero(buffers=3, clipped=True),
            "accumulated, clipped": Zero(parts=2, clipped=True),
        }.items():
            optimizer = next(optimizers)
            one = replace(zero, stage=stage, optimizer=MORE_OPTIMIZERS[optimizer])
            yield by_parts(f"ZeRO-{stage} by hand, {name}, {optimizer}", one, ranks)

    def make(name: str, one: Accumulation, mesh: dict[str, int]) -> Configuration:
        optimizer = next(optimizers)
        one = replace(one, optimizer=MORE_OPTIMIZERS[optimizer])
        return accumulated(f"accumulated, {one.way}, {name}, {optimizer}", one, mesh)

    yield make("clipped", Accumulation(way="DDP", clipped=True), {"dp": 2})
    for parts in (2, 4):
        yield make(f"{parts} parts", Accumulation(parts=parts), {"dp": 2})
        yield make(
            f"{parts} parts, each reduced, clipped", Accumulation(parts=parts, every=True, clipped=True), {"dp": 2}
        )
    for every in (False, True):
        how = "shards reduced each time" if every else "the last reduced"
        yield make(how, Accumulation(way="HSDP", every=every), COPIES)
    for name in ("gradient", "reduce-scatter"):
        yield make(f"a {name} divide factor", Accumulation(factor=name), {"dp": 2})
    yield make("a divide factor", Accumulation(way="HSDP", factor="gradient"), COPIES)
    half = Accumulation(dtype=torch.bfloat16)
    yield make("bfloat16", replace(half, way="DDP"), {"dp": 2})
    yield make("bfloat16 reduced in float32", replace(half, reduce_dtype=torch.float32), {"dp": 2})
    yield make("float16, a divide factor", Accumulation(dtype=torch.float16, factor="gradient"), {"dp": 2})
