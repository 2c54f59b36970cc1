"""Models of other dtypes, and casts inside the forward: in exact arithmetic none of them rounds."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.configuration import sharded
from benchmarks.mutants.correct.layers import MLP, by_plan, column_row, make_batch
from benchmarks.mutants.steps import adamw
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.mutants.configuration import Configuration


class Normed(nn.Module):
    """A norm computed in float32 before two linear layers, as large models have it."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 4)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        h = self.up(wide.to(x.dtype) * self.scale)
        return self.down(F.silu(self.between(h)))


def narrowed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """To another dtype and back, between the two layers."""
    return x.to(dtype).to(x.dtype)


def configurations() -> Iterator[Configuration]:
    """Each dtype as the model's, then casts inside."""
    models: dict[str, Callable[[], nn.Module]] = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        models[f"a model of {name}"] = partial(_of_dtype, MLP, dtype)
        models[f"a normed model of {name}"] = partial(_of_dtype, Normed, dtype)
        models[f"{name} between layers"] = partial(Normed, partial(narrowed, dtype=dtype))
    inputs, targets = make_batch()
    for name, model in models.items():
        step = Step(model=model, batch=(inputs, targets), loss=F.mse_loss, optimizer=adamw, clip_norm=1.0, steps=2)
        yield sharded(f"dtypes: {name}", step, by_plan(column_row), 2)
    step = Step(
        model=MLP,
        batch=(inputs.bfloat16(), targets.half()),
        loss=lambda outputs, targets: F.mse_loss(outputs.float(), targets.float()),
        optimizer=adamw,
        steps=2,
    )
    yield sharded("dtypes: a narrow batch, the loss in float32", step, by_plan(column_row), 2)


def _of_dtype(model: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    return model().to(dtype)
