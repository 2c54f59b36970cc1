"""A float mask of the batch is turned into a boolean one at another threshold."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import TwoLayers, draw, split_two_layers, two_layer_step
from shardproof.proving.step import Step

KEPT = torch.tensor([1.0, 0.4, 0.0, 1.0, 0.6, 0.0])


def plant(planted: bool) -> Configuration:
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        inputs, targets, kept = batch
        threshold = 0.3 if model.split and planted else 0.5
        outputs = model(inputs)
        return F.mse_loss(torch.where((kept > threshold)[:, None], outputs, torch.zeros_like(outputs)), targets)

    step = Step(
        model=TwoLayers,
        batch=(draw(6, 6), draw(6, 4, seed=1), KEPT),
        forward=loss,
        optimizer=two_layer_step().optimizer,
        steps=2,
    )
    return sharded("rows kept where a float mask is above a half", step, split_two_layers, 2)


BUG = Bug(
    id="M63",
    name="mask-threshold",
    phase="F",
    seen_in="review: comparisons of constants",
    root="loss loss",
    unexplained="in exact arithmetic a comparison with a residue is a random weight, which a squared error mixes",
    plant=plant,
)
