"""The lines of a training step that a bug may change: each a function, all right by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.mutants.collectives import all_reduced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.nn import Module, Parameter


def loss_share(total: Tensor, valid: Tensor) -> Tensor:
    """This rank's share of the mean over the valid tokens of all ranks; shares are summed."""
    return total / all_reduced(valid)


def gradient_norm(sharded: Sequence[Tensor], replicated: Sequence[Tensor]) -> Tensor:
    """Over the whole model: shards summed over ranks, replicas counted once."""
    return (all_reduced(squares(sharded)) + squares(replicated)).sqrt()


def squares(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of the squares of all elements."""
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum()


def trained(model: Module) -> list[Parameter]:
    """What the optimizer updates: everything."""
    return list(model.parameters())


def matrix_step(shard: Tensor, gradient: Tensor, direction: Callable[[Tensor], Tensor]) -> Tensor:
    """This rank's rows of the direction of the whole matrix."""
    rows = [torch.empty_like(gradient) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, gradient.contiguous())
    start = dist.get_rank() * len(shard)
    return direction(torch.cat(rows))[start : start + len(shard)]


def tie(_model: Module) -> None:
    """Embedding and head are one parameter already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLines:
    """Each is called where its name says; see `training.py`."""

    loss_share: Callable[[Tensor, Tensor], Tensor] = loss_share
    gradient_norm: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor] = gradient_norm
    trained: Callable[[Module], list[Parameter]] = trained
    tie: Callable[[Module], None] = tie
    matrix_step: Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor] = matrix_step
