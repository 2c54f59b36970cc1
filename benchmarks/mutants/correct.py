"""Correct configurations: none may be refused."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.mutants.block import Sizes
from benchmarks.mutants.lines import Lines
from benchmarks.mutants.sharded import shard
from benchmarks.mutants.steps import OPTIMIZERS, make_step
from benchmarks.mutants.training import CLIP_NORM, data_parallel, tensor_parallel
from benchmarks.mutants.training_lines import TrainingLines
from shardproof.frameworks.transformers import OwnPlan, PlanChange, tiny_step
from shardproof.proving.prove import prove
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.distributed.device_mesh import DeviceMesh

    from shardproof.proving.findings import Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One correct sharding: its name, and its proof of one trial."""

    name: str
    prove: Callable[[], Proof]


# Sizes that the ranks can share: heads divide, the sequence too; vocabulary and the MLP's width need not.
SIZES = {
    2: [Sizes(), Sizes(kv_heads=1, vocabulary=7, intermediate=9), Sizes(layers=2)],
    3: [Sizes(heads=3, kv_heads=3, sequence=9), Sizes(heads=6, kv_heads=1, sequence=6, vocabulary=11)],
    4: [Sizes(), Sizes(heads=4, kv_heads=4, intermediate=7)],
    8: [Sizes(heads=8, kv_heads=2), Sizes(heads=8, kv_heads=8, intermediate=9)],
}


def configurations() -> Iterator[Configuration]:
    """All of them, a kind after the other."""
    yield from _by_hand()
    yield from _trainings()
    yield from _dtensor()
    yield from _transformers()


def _by_hand() -> Iterator[Configuration]:
    for devices, all_sizes in SIZES.items():
        for i, plain in enumerate(all_sizes):
            for tied, sequence, optimizer in itertools.product((True, False), (False, True), OPTIMIZERS):
                sizes = Sizes(**{name: getattr(plain, name) for name in plain.__slots__} | {"tied": tied})
                step = make_step(sizes, optimizer=OPTIMIZERS[optimizer], steps=2)
                yield Configuration(
                    name=f"by hand, {devices} ranks, sizes {i}, tied {tied}, sequence {sequence}, {optimizer}",
                    prove=_parallelized(step, shard(Lines(), sequence_parallel=sequence), devices),
                )


def _trainings() -> Iterator[Configuration]:
    lines, training = Lines(), TrainingLines()
    for devices, optimizer in itertools.product((2, 4), OPTIMIZERS):
        of = OPTIMIZERS[optimizer]
        sizes = Sizes(heads=4, kv_heads=4)
        step = make_step(sizes, optimizer=of, clip_norm=CLIP_NORM, steps=2)
        candidate = tensor_parallel(sizes, lines, training, of)
        yield Configuration(
            name=f"own tensor-parallel training, {devices} ranks, {optimizer}", prove=_trained(step, candidate, devices)
        )
        sizes = Sizes(smoothing=0.0, batch=devices + 1)
        step = make_step(sizes, optimizer=of, steps=2)
        if devices == 2:
            candidate = data_parallel(sizes, training, of)
            yield Configuration(
                name=f"own data-parallel training, {devices} ranks, {optimizer}",
                prove=_trained(step, candidate, devices),
            )


class MLP(nn.Module):
    """Column, then row, for PyTorch's own styles."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, width), nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)))


def parallelize_mlp(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """The activation between stays a DTensor: a local one would not say how a width that does not divide is cut."""
    return parallelize_module(
        model,
        mesh,
        {
            "up": ColwiseParallel(use_local_output=False),
            "down": RowwiseParallel(),
        },
    )


def _dtensor() -> Iterator[Configuration]:
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(5, 6, generator=generator), torch.randn(5, 4, generator=generator)
    for devices, width, optimizer, clip in itertools.product((2, 3, 4, 8), (8, 11), OPTIMIZERS, (None, 1.0)):
        step = Step(
            model=lambda width=width: MLP(width),
            batch=batch,
            loss=F.mse_loss,
            optimizer=OPTIMIZERS[optimizer],
            clip_norm=clip,
            steps=2,
        )
        yield Configuration(
            name=f"DTensor MLP of width {width}, {devices} ranks, {optimizer}, clip {clip}",
            prove=_parallelized(step, parallelize_mlp, devices),
        )


def _transformers() -> Iterator[Configuration]:
    for source in ("llama", "qwen3"):
        step = tiny_step(source, {"num_hidden_layers": 1})
        yield Configuration(
            name=f"transformers {source}, 2 ranks", prove=_parallelized(step, OwnPlan(change=PlanChange()), 2)
        )


def _parallelized(
    step: Step, parallelize: Callable[[nn.Module, DeviceMesh], nn.Module], devices: int
) -> Callable[[], Proof]:
    return lambda: prove(step, parallelize=parallelize, devices=devices, trials=1)


def _trained(step: Step, candidate: Callable[..., None], devices: int) -> Callable[[], Proof]:
    return lambda: prove(step, candidate=candidate, devices=devices, trials=1)
