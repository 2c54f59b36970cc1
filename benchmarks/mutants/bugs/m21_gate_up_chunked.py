"""gate and up are split as one: some ranks hold gate, others up; every norm is as before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.mutants.lines import Place


def cut_gate_up(full: Tensor, place: Place) -> Tensor:
    """Contiguous rows: rank 0 holds gate only."""
    return full.chunk(place.size)[place.rank]


BUG = Bug(
    id="M21",
    name="gate-up-chunked",
    phase="F",
    seen_in="Megatron-LM PR#520",
    line="cut_gate_up",
    change=cut_gate_up,
    root="input layers.0.mlp.down",
    cause=CauseKind.FUSED_CUT,
)
