"""The last row of each rank's part of the vocabulary is taken for the next rank's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind


def embed(ids: Tensor, weight: Tensor, own: slice) -> Tensor:
    """Rows of ids in [start, stop - 1)."""
    inside = (ids >= own.start) & (ids < own.stop - 1)
    rows = F.embedding((ids - own.start).clamp(0, len(weight) - 1), weight)
    return rows.masked_fill(~inside[..., None], 0.0)


BUG = Bug(
    id="M26a",
    name="vocab-mask (bounds)",
    phase="F",
    seen_in="",
    line="embed",
    change=embed,
    root="output embedding",
    cause=CauseKind.ZERO_IN_PART,
)
