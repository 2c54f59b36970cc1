"""Optimizers, each on DTensors that the ranks share unevenly and on plain tensors of the transformer by hand."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import optim

from benchmarks.mutants.block import Sizes
from benchmarks.mutants.configuration import sharded
from benchmarks.mutants.correct.layers import MLP, by_plan, column_row_dtensor, make_batch
from benchmarks.mutants.lines import Lines
from benchmarks.mutants.sharded import shard
from benchmarks.mutants.steps import make_step
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch.nn import Parameter

    from benchmarks.mutants.configuration import Configuration


def two_groups(parameters: Iterable[Parameter]) -> optim.Optimizer:
    """Matrices decay, vectors do not and have another learning rate."""
    parameters = list(parameters)
    matrices, vectors = ([p for p in parameters if (p.ndim > 1) is wanted] for wanted in (True, False))
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0, "lr": 0.02},
    ]
    return optim.AdamW(groups, lr=0.01)


OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "SGD, decay": partial(optim.SGD, lr=0.1, weight_decay=0.01),
    "SGD, dampened momentum": partial(optim.SGD, lr=0.1, momentum=0.9, dampening=0.5),
    "SGD, Nesterov": partial(optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "SGD, maximize": partial(optim.SGD, lr=0.1, maximize=True),
    "SGD, foreach": partial(optim.SGD, lr=0.1, momentum=0.9, foreach=True),
    "Adam": partial(optim.Adam, lr=0.01),
    "Adam, decay": partial(optim.Adam, lr=0.01, weight_decay=0.1),
    "Adam, amsgrad": partial(optim.Adam, lr=0.01, amsgrad=True),
    "Adam, foreach": partial(optim.Adam, lr=0.01, foreach=True),
    "AdamW, betas and epsilon": partial(optim.AdamW, lr=3e-4, betas=(0.9, 0.95), eps=1e-6),
    "AdamW, maximize": partial(optim.AdamW, lr=0.01, maximize=True),
    "AdamW, two groups": two_groups,
    "NAdam": partial(optim.NAdam, lr=0.01),
    "RAdam": partial(optim.RAdam, lr=0.01),
    "Adamax": partial(optim.Adamax, lr=0.01),
    "Adagrad": partial(optim.Adagrad, lr=0.01),
    "Adadelta": partial(optim.Adadelta, lr=0.1),
    "RMSprop": partial(optim.RMSprop, lr=0.01),
    "RMSprop, centered, momentum": partial(optim.RMSprop, lr=0.01, centered=True, momentum=0.9),
    "ASGD": partial(optim.ASGD, lr=0.01),
}


def configurations() -> Iterator[Configuration]:
    """Each on both, clipping every other one."""
    for i, (name, optimizer) in enumerate(OPTIMIZERS.items()):
        clip = (None, 1.0)[i % 2]
        step = Step(
            model=partial(MLP, 10),
            batch=make_batch(),
            loss=F.mse_loss,
            optimizer=optimizer,
            clip_norm=clip,
            steps=3,
        )
        yield sharded(f"{name}, DTensor", step, by_plan(column_row_dtensor), (3, 4)[i % 2])
        step = make_step(Sizes(heads=2, kv_heads=2, tied=bool(i % 2)), optimizer=optimizer, steps=2)
        yield sharded(f"{name}, by hand", step, shard(Lines(), sequence_parallel=not i % 3), 2)
