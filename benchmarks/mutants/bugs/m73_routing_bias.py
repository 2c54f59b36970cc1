"""The bias that balances experts is zero before training, and the ranks leave it out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import WIDTH, TwoLayers, own_features, split_two_layers, two_layer_step


class Biased(TwoLayers):
    """A buffer is added to the hidden features, as DeepSeek's bias is to the routing's scores."""

    forgotten = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(WIDTH))

    def between(self, hidden: Tensor) -> Tensor:
        if not self.split:
            return hidden.add(self.bias).sigmoid()
        return (hidden if self.forgotten else hidden + own_features(self.bias)).sigmoid()


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_two_layers(model)
        model.forgotten = planted
        return model

    return sharded("scores with a bias that is a buffer of zeros", two_layer_step(Biased), parallelize, 2)


BUG = Bug(
    id="M73",
    name="routing-bias-dropped",
    phase="F",
    seen_in="review: nothing passes unseen",
    root="output model",
    unexplained="what the bias is added to is no module's output: a sigmoid and the next layer come before one",
    plant=plant,
)
