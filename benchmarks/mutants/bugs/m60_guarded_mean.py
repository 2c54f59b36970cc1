"""Means of groups, one of which is empty: the ranks that share out the rows count their own rows only."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import OUTPUTS, TwoLayers, split_two_layers, two_layer_step
from shardproof.proving.cause import CauseKind

GROUPS = torch.tensor([0, 0, 2, 2, 2, 0])  # nobody is in group 1


class GroupMeans(TwoLayers):
    """Each row gets the sum of the groups' means added; a group without rows has mean 0."""

    counts_wrongly = False

    def after(self, output: Tensor) -> Tensor:
        sums = output.new_zeros(3, OUTPUTS).index_add(0, GROUPS, output)
        counts = torch.bincount(GROUPS, minlength=3)[:, None]
        if self.split and self.counts_wrongly:
            counts = counts.clamp(max=2)
        means = torch.where(counts > 0, sums / counts, torch.zeros_like(sums))
        return output + means.sum(0)


def plant(planted: bool, dtype: torch.dtype = torch.float32) -> Configuration:
    def build() -> GroupMeans:
        model = GroupMeans().to(dtype)
        model.counts_wrongly = planted
        return model

    step = two_layer_step(build, batch=tuple(x.to(dtype) for x in two_layer_step().batch))
    return sharded("means of groups, one of them empty", step, split_two_layers, 2)


BUG = Bug(
    id="M60",
    name="guarded-mean",
    phase="F",
    seen_in="review: void trials",
    root="output model",
    cause=CauseKind.SAME_VECTOR_OFF,
    plant=plant,
)
