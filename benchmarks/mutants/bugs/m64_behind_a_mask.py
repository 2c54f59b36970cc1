"""What a float mask keeps is scaled twice on the ranks: the mask itself is right."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import TwoLayers, own_features, split_two_layers, two_layer_step


class Gated(TwoLayers):
    """The hidden features that a buffer is positive for are scaled by 3."""

    factor = 3.0

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gate", torch.tensor([-0.5, 0.5, 1.5, -1.5, 0.25, 0.75, -0.75, 2.0]), persistent=False)

    def between(self, hidden: Tensor) -> Tensor:
        gate = own_features(self.gate) if self.split else self.gate
        return torch.where(gate > 0, hidden * (self.factor if self.split else 3.0), hidden)


def plant(planted: bool) -> Configuration:
    def build() -> TwoLayers:
        model = Gated()
        model.factor = 6.0 if planted else 3.0
        return model

    return sharded("features scaled where a buffer is positive", two_layer_step(build), split_two_layers, 2)


BUG = Bug(
    id="M64",
    name="scaled-behind-a-mask",
    phase="F",
    seen_in="review: comparisons of constants",
    root="output model",
    unexplained="what is scaled is no module's output: the next layer has mixed it with what is right",
    plant=plant,
)
