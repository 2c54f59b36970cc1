"""A mutant, or the sharding without it, as a `Step` and a `parallelize`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.mutants.block import Sizes, Transformer, make_batch
from shardproof.prove.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor, nn


def make_step(sizes: Sizes, **settings: Any) -> Step:
    """One SGD step on the transformer, or as the settings say."""
    defaults = {"optimizer": sgd, "steps": 1}
    return Step(
        model=partial(Transformer, sizes), batch=make_batch(sizes), forward=forward, **(defaults | settings)
    )


def forward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(*batch)


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def momentum(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": sgd,
    "momentum": momentum,
    "AdamW": adamw,
}
