"""Training steps of the user's own: clipping over shards, a split batch, a matrix optimizer."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from benchmarks.mutants.block import Sizes
from benchmarks.mutants.configuration import trained
from benchmarks.mutants.lines import Lines
from benchmarks.mutants.steps import OPTIMIZERS, make_matrix_step, make_step
from benchmarks.mutants.training import CLIP_NORM, data_parallel, matrix_optimizer, tensor_parallel
from benchmarks.mutants.training_lines import TrainingLines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.mutants.configuration import Configuration


def configurations() -> Iterator[Configuration]:
    """The trainings that the bugs are planted in, without one."""
    lines, training = Lines(), TrainingLines()
    for devices, sequence, name in itertools.product((2, 4), (False, True), OPTIMIZERS):
        sizes = Sizes(heads=4, kv_heads=4, tied=not sequence)
        step = make_step(sizes, optimizer=OPTIMIZERS[name], clip_norm=CLIP_NORM, steps=2)
        candidate = tensor_parallel(sizes, lines, training, OPTIMIZERS[name], sequence_parallel=sequence)
        how = "sequence-parallel" if sequence else "tensor-parallel"
        yield trained(f"own {how} training, clipped, {name}", step, candidate, devices)
    for devices, name in itertools.product((2, 3), OPTIMIZERS):
        sizes = Sizes(smoothing=0.0, batch=devices + 1)
        step = make_step(sizes, optimizer=OPTIMIZERS[name], steps=2)
        if devices == 2:
            yield trained(
                f"own data-parallel training, {name}", step, data_parallel(sizes, training, OPTIMIZERS[name]), 2
            )
    for devices in (2, 4):
        yield trained("matrix optimizer", make_matrix_step(), matrix_optimizer(training), devices)
