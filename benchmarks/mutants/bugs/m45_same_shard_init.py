"""Every rank takes the first shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from benchmarks.mutants.lines import Place


def cut_gate_up(full: Tensor, place: Place) -> Tensor:
    """Rank 0's rows of gate and up, on every rank."""
    gate, up = full.chunk(2)
    return torch.cat([gate[: len(gate) // place.size], up[: len(up) // place.size]])


BUG = Bug(
    id="M45",
    name="same-shard-init",
    phase="F",
    seen_in="OLMo-core#307",
    line="cut_gate_up",
    change=cut_gate_up,
    root="initial parameter layers.0.mlp.gate_up.*",
    cause=CauseKind.SAME_SHARD,
)
