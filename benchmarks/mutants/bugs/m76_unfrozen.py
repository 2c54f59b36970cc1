"""Cutting a frozen layer makes a new parameter, which trains: `nn.Parameter(part)` requires a gradient by default."""

from __future__ import annotations

from torch import nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.lora import lora_step, split_adapters
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_adapters(model)
        if planted:
            model.up.base.weight = nn.Parameter(model.up.base.weight.detach())
        return model

    return sharded("adapters beside frozen layers", lora_step(), parallelize, 2)


BUG = Bug(
    id="M76",
    name="unfrozen-by-cutting",
    phase="U",
    seen_in="peft with tensor parallelism",
    root="gradient up.base.weight",
    cause=CauseKind.UNFROZEN,
    plant=plant,
)
