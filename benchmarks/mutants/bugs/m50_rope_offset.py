"""Positions are not shifted by the part of the sequence that a rank holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.lines import Place


def positions(length: int, _place: Place) -> Tensor:
    """From 0 on every rank."""
    return torch.arange(length)


BUG = Bug(
    id="M50",
    name="rope-offset",
    phase="F",
    seen_in="Entangle paper",
    line="positions",
    change=positions,
    sequence_parallel=True,
    root="input layers.0.attention/softmax",
    cause=CauseKind.OTHER_CONSTANTS,
)
