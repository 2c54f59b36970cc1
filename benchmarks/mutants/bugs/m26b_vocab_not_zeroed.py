"""Rows of ids that other ranks hold are not set to zero."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind


def embed(ids: Tensor, weight: Tensor, own: slice) -> Tensor:
    """Rows of all ids, those of other ranks' ids arbitrary."""
    return F.embedding((ids - own.start).clamp(0, len(weight) - 1), weight)


BUG = Bug(
    id="M26b",
    name="vocab-mask (not zeroed)",
    phase="F",
    seen_in="",
    line="embed",
    change=embed,
    root="output embedding",
    cause=CauseKind.FEW_VECTORS_OFF,
)
