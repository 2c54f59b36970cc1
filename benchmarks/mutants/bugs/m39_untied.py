"""Embedding and head, tied on one device, are two parameters, each updated by its own gradient."""

from __future__ import annotations

from torch import nn

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind


def tie(model: nn.Module) -> None:
    """The head gets a copy."""
    model.head.weight = nn.Parameter(model.embedding.weight.detach().clone())


BUG = Bug(
    id="M39",
    name="untied",
    phase="U,R",
    seen_in="Megatron-LM#656",
    line="tie",
    change=tie,
    root="gradient embedding.weight",
    training="tensor parallel",
    cause=CauseKind.UNTIED,
)
