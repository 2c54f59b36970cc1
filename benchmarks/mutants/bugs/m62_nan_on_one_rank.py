"""Each rank averages its own valid tokens; one rank has none, and 0 / 0 is averaged in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import Reduce
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import TwoLayers, draw, own_part, split_two_layers, two_layer_step
from shardproof.proving.cause import CauseKind
from shardproof.proving.step import Step

VALID = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])


def plant(planted: bool) -> Configuration:
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        inputs, targets, valid = batch
        errors = F.mse_loss(model(inputs), targets, reduction="none").mean(-1) * valid
        if model.split and planted:
            return Reduce.apply(own_part(errors).sum() / own_part(valid).sum()) / 2
        return errors.sum() / valid.sum()

    step = Step(
        model=TwoLayers,
        batch=(draw(6, 6), draw(6, 4, seed=1), VALID),
        forward=loss,
        optimizer=two_layer_step().optimizer,
        steps=2,
    )
    return sharded("a mean over valid tokens, of which one rank has none", step, split_two_layers, 2)


BUG = Bug(
    id="M62",
    name="mean-of-no-tokens",
    phase="F",
    seen_in="Megatron-LM#1877",
    root="loss loss",
    cause=CauseKind.NO_NUMBER_HERE,
    plant=plant,
)
