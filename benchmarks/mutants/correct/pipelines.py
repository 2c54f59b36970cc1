"""Stages of a pipeline: PyTorch's seven schedules and 1F1B by hand, tied ends, clipped, beside dp and tp."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from benchmarks.mutants.models.pipelines import (
    BY_HAND,
    LOOPED,
    SCHEDULES,
    SINGLE,
    V_SHAPED,
    Pipeline,
    PipelineLines,
    mean,
    pipelined,
    summed,
)
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.mutants.configuration import Configuration

EVERY = (*SCHEDULES, BY_HAND)


def configurations() -> Iterator[Configuration]:
    """Microbatches have unequal numbers of tokens where it is not said otherwise."""
    optimizers = itertools.cycle(("SGD", "AdamW", "momentum", "Adam"))

    def make(name: str, mesh: dict[str, int], **settings: object) -> Configuration:
        optimizer = next(optimizers)
        pipeline = Pipeline(optimizer=MORE_OPTIMIZERS[optimizer], **settings)
        return pipelined(f"pipeline, {name}, {optimizer}", pipeline, mesh)

    for schedule in EVERY:
        yield make(schedule, {"pp": 2}, schedule=schedule)
        yield make(f"{schedule}, tied", {"pp": 2}, schedule=schedule, tied=True)
        if schedule != "GPipe":
            layers = 5 if schedule in (*SINGLE, BY_HAND) else 6
            yield make(f"{schedule}, {layers} layers", {"pp": 2}, schedule=schedule, layers=layers)
    for schedule in ("1F1B", LOOPED[2], V_SHAPED[0], BY_HAND):
        yield make(f"{schedule}, tied, clipped", {"pp": 2}, schedule=schedule, tied=True, clipped=True)
    for schedule in (*SINGLE, BY_HAND):
        yield make(f"{schedule}, copies", {"dp": 2, "pp": 2}, schedule=schedule, microbatches=2)
        yield make(f"{schedule}, four stages", {"pp": 4}, schedule=schedule, microbatches=8)
    divided = PipelineLines(
        loss=lambda *given: 4 * mean(*given), scales=True, total=lambda loss, group: summed(loss, group) / 4
    )
    for schedule in ("GPipe", V_SHAPED[1]):
        yield make(f"{schedule}, means", {"pp": 2}, schedule=schedule, padded="none", lines=divided)
    for schedule in ("1F1B", LOOPED[0]):
        yield make(f"{schedule}, columns and rows", {"pp": 2, "tp": 2}, schedule=schedule)
