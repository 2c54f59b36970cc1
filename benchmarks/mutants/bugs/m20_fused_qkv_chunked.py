"""[Q; K; V] is split into contiguous pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.mutants.block import Sizes
    from benchmarks.mutants.lines import Place


def cut_qkv(full: Tensor, _sizes: Sizes, place: Place) -> Tensor:
    """Contiguous rows: rank 0 holds queries only."""
    return full.chunk(place.size)[place.rank]


BUG = Bug(
    id="M20",
    name="fused-qkv-chunked",
    phase="F",
    seen_in="Automodel#1324",
    line="cut_qkv",
    change=cut_qkv,
    root="input layers.0.attention.q_norm",
    cause=CauseKind.FUSED_CUT,
)
