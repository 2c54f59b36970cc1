"""The head goes on using the copy of its weight that was made in the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor


class Stale:
    """The weight of the first call; its gradient goes to the weight of today."""

    def __init__(self) -> None:
        self.copies: dict[Tensor, Tensor] = {}

    def __call__(self, weight: Tensor) -> Tensor:
        copy = self.copies.setdefault(weight, weight.detach().clone())
        return copy + (weight - weight.detach())


BUG = Bug(
    id="M44",
    name="stale-weight",
    phase="U",
    seen_in="Megatron-LM#656",
    line="head_weight",
    change=Stale(),
    root="output head",
    cause=CauseKind.STALE_WEIGHT,
    training="tensor parallel",
)
