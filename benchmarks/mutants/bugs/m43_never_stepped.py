"""A parameter is left out of the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import nn


def trained(model: nn.Module) -> list[nn.Parameter]:
    """All but the last norm's weight."""
    return [parameter for name, parameter in model.named_parameters() if name != "norm.weight"]


BUG = Bug(
    id="M43",
    name="never-stepped",
    phase="U",
    seen_in="Megatron-LM#565",
    line="trained",
    change=trained,
    root="updated parameter norm.weight",
    cause=CauseKind.NEVER_STEPPED,
    training="tensor parallel",
)
