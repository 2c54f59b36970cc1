"""The sharding replaces a method of the model's class, with a mistake in it, and so the one device's as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.two_layers import TwoLayers, split_two_layers, two_layer_step
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor, nn


def plant(planted: bool) -> Configuration:
    class Shifted(TwoLayers):
        """Adds one to its outputs."""

        def after(self, output: Tensor) -> Tensor:
            return output + 1

    def after(_self: nn.Module, output: Tensor) -> Tensor:
        return output + (2 if planted else 1)

    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        type(model).after = after
        return split_two_layers(model)

    return sharded("a method replaced in the class", two_layer_step(Shifted), parallelize, 2)


BUG = Bug(
    id="M88",
    name="class-patched",
    phase="F",
    seen_in="review: patches reach the reference",
    root="output model",
    cause=CauseKind.SAME_VECTOR_OFF,
    plant=plant,
)
