"""A mutant, or the sharding without it, as a `Step` and a `parallelize`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.mutants.block import Sizes, Transformer, make_batch
from benchmarks.mutants.training import (
    CLIP_NORM,
    MatrixDescent,
    Projection,
    data_parallel,
    matrix_optimizer,
    tensor_parallel,
)
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn

    from benchmarks.mutants.bug import Bug
    from shardproof.proving.running.candidate import Run


def make_step(sizes: Sizes, **settings: Any) -> Step:
    """One SGD step on the transformer, or as the settings say."""
    defaults = {"optimizer": sgd, "steps": 1}
    return Step(model=partial(Transformer, sizes), batch=make_batch(sizes), forward=forward, **(defaults | settings))


def forward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(*batch)


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def momentum(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters := list(parameters), lr=0.01, eps=_eps(parameters))


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters := list(parameters), lr=0.01, eps=_eps(parameters))


def _eps(parameters: list[nn.Parameter]) -> float:
    """PyTorch's own is zero in float16, where a gradient that underflows then gives 0 / 0 on one device too."""
    return 1e-4 if any(parameter.dtype == torch.float16 for parameter in parameters) else 1e-8


def adam_fused(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01, fused=True)


def adamw_fused(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01, fused=True)


def sgd_fused(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, fused=True)


def adamw_foreach(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01, foreach=True)


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": sgd,
    "momentum": momentum,
    "AdamW": adamw,
}

# Beside the three plain ones: Adam, and each of the ways in which PyTorch takes a step.
MORE_OPTIMIZERS = OPTIMIZERS | {
    "Adam": adam,
    "AdamW foreach": adamw_foreach,
    "Adam fused": adam_fused,
    "AdamW fused": adamw_fused,
    "momentum fused": sgd_fused,
}


def make_matrix_step() -> Step:
    """Two steps of an optimizer of matrices."""
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    return Step(model=Projection, batch=x, forward=lambda model, x: model(x), optimizer=MatrixDescent, steps=2)


def make_training(bug: Bug) -> tuple[Step, Callable[[Run], None]]:
    """Two steps, on one device and as a training of the user's own."""
    sizes, lines, training = bug.sizes, bug.lines, bug.training_lines
    if bug.training == "matrix optimizer":
        return make_matrix_step(), matrix_optimizer(training)
    if bug.training == "data parallel":
        return make_step(sizes, steps=2), data_parallel(sizes, training, sgd)
    step = make_step(sizes, steps=2, optimizer=adamw, clip_norm=CLIP_NORM)
    return step, tensor_parallel(sizes, lines, training, adamw)
