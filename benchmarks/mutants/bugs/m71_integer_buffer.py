"""A counter of tokens, an integer buffer, counts what this rank has and not what the batch has."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import TwoLayers, split_two_layers, two_layer_step
from shardproof.proving.cause import CauseKind


class Counting(TwoLayers):
    """Counts the rows that it has seen."""

    share = 1

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    def before(self, x: Tensor) -> Tensor:
        self.seen += len(x) // self.share
        return x


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_two_layers(model)
        model.share = 2 if planted else 1
        return model

    return sharded("rows counted in an integer buffer", two_layer_step(Counting), parallelize, 2)


BUG = Bug(
    id="M71",
    name="integer-buffer",
    phase="F",
    seen_in="review: nothing passes unseen",
    root="buffer seen",
    cause=CauseKind.SCALED,
    factor=Fraction(1, 2),
    plant=plant,
)
