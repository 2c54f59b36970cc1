"""A table of constants in bfloat16 whose neighbours differ by one or two per cent is read one place off on a rank."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import WIDTH, TwoLayers, own_features, split_two_layers, two_layer_step
from shardproof.proving.cause import CauseKind

TABLE = (torch.tensor([181, 183, 187, 190, 193, 197, 201, 206]) / 256).bfloat16()


class Scaled(TwoLayers):
    """The hidden features are multiplied by the table."""

    off = 0

    def between(self, hidden: Tensor) -> Tensor:
        table = TABLE.roll(self.off if self.split and dist.get_rank() else 0).to(hidden.dtype)
        return hidden * (own_features(table) if self.split else table)


def plant(planted: bool) -> Configuration:
    def build() -> TwoLayers:
        model = Scaled().bfloat16()
        model.off = 1 if planted else 0
        return model

    assert len(TABLE) == WIDTH
    step = two_layer_step(build, batch=tuple(x.bfloat16() for x in two_layer_step().batch))
    return sharded("features times a table in bfloat16", step, split_two_layers, 2)


BUG = Bug(
    id="M85",
    name="bfloat16-table-off-by-one",
    phase="F",
    seen_in="review: constants merge",
    root="output model",
    cause=CauseKind.OTHER_CONSTANTS,
    plant=plant,
)
