"""Shards of the sequence are dropped by the generator that all ranks have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from benchmarks.mutants.block import Sizes
from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from benchmarks.mutants.lines import Place


def sequence_dropout(_place: Place) -> Callable[[Tensor, float], Tensor]:
    """The same mask on every rank."""
    return F.dropout


BUG = Bug(
    id="M47",
    name="same-dropout-mask",
    phase="F",
    seen_in="InternLM#405",
    line="sequence_dropout",
    change=sequence_dropout,
    sequence_parallel=True,
    sizes=Sizes(dropout=0.1),
    root="dropout mask layers.0",
    cause=CauseKind.MASK_SHARED,
)
