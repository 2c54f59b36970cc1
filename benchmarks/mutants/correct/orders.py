"""Sequences split in zigzag, in neighbouring parts or strided: keys and values are gathered and put in order."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.mutants.configuration import Configuration, trained
from benchmarks.mutants.models.zigzag import LENGTH, contiguous, zigzag, zigzag_step, zigzag_training
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator


def strided(ranks: int, rank: int) -> Tensor:
    """Every so-many-th token (striped attention)."""
    return torch.arange(rank, LENGTH, ranks)


def backwards(ranks: int, rank: int) -> Tensor:
    """The last rank has the first tokens."""
    return contiguous(ranks, ranks - 1 - rank)


ORDERS = {"zigzag": zigzag, "neighbouring": contiguous, "strided": strided, "backwards": backwards}


def configurations() -> Iterator[Configuration]:
    """Each order at 2 and 4 ranks with two optimizers."""
    names = itertools.cycle(("AdamW", "SGD", "momentum", "Adam", "AdamW foreach"))
    for (name, order), devices in itertools.product(ORDERS.items(), (2, 4)):
        for optimizer in (next(names), next(names)):
            build = MORE_OPTIMIZERS[optimizer]
            candidate = zigzag_training(order, build)
            yield trained(f"{name} sequences, {optimizer}", zigzag_step(build), candidate, devices)
