"""The second factor of an adapter is whole and sees one rank's tokens; its gradient is not summed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.lora import lora_step, split_adapters
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import nn


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_adapters(model, sequence=True)
        if planted:
            model.down.B.weight._backward_hooks.clear()  # noqa: SLF001 - the hook that would sum it is forgotten
        return model

    step = lora_step()
    right = partial(split_adapters, sequence=True)
    return sharded("adapters under sequence parallelism", step, parallelize if planted else right, 2)


BUG = Bug(
    id="M77",
    name="adapter-gradient-unsummed",
    phase="B,R",
    seen_in="mcore-bridge#173",
    root="gradient down.B.weight",
    cause=CauseKind.MISSING_ALL_REDUCE,
    plant=plant,
)
