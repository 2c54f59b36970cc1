"""The same guarded mean in bfloat16, wrong by a twentieth: below what a comparison of numbers could tell."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import TwoLayers, split_two_layers, two_layer_step
from shardproof.proving.cause import CauseKind

COUNTS = torch.tensor([[2], [0], [4]])


class GroupMeans(TwoLayers):
    """Rows 0 and 1, none, and 2 to 5."""

    smoothed = False

    def after(self, output: Tensor) -> Tensor:
        sums = torch.stack([output[:2].sum(0), output[:0].sum(0), output[2:].sum(0)])
        counts = COUNTS * 1.05 if self.split and self.smoothed else COUNTS
        return output + torch.where(COUNTS > 0, sums / counts.to(sums.dtype), torch.zeros_like(sums)).sum(0)


def plant(planted: bool) -> Configuration:
    def build() -> TwoLayers:
        model = GroupMeans().bfloat16()
        model.smoothed = planted
        return model

    step = two_layer_step(build, batch=tuple(x.bfloat16() for x in two_layer_step().batch), steps=1)
    return sharded("bfloat16 means of groups, one of them empty", step, split_two_layers, 2)


BUG = Bug(
    id="M61",
    name="guarded-mean-bfloat16",
    phase="F",
    seen_in="review: void trials",
    root="output model",
    cause=CauseKind.SAME_VECTOR_OFF,
    plant=plant,
)
