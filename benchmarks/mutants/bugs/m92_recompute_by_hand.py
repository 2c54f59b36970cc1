"""A hand-made checkpoint does not put the random state back either."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.dropping import Dropping, RecomputeByHand, dropping_step, split_dropping
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor, nn


class ByHand(Dropping):
    """`core` by the hand-made Function on the ranks."""

    restored = True

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(RecomputeByHand.apply(h, self.core, self.restored) if self.split else self.core(h))


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_dropping(model)
        model.restored = not planted
        return model

    return sharded("dropout recomputed by hand", dropping_step(model=ByHand), parallelize, 2, dropout=planted)


BUG = Bug(
    id="M92",
    name="recompute-by-hand-other-mask",
    phase="B",
    seen_in="review: recomputation",
    root="dropout mask drop*",
    cause=CauseKind.RECOMPUTED_MASK,
    plant=plant,
    shown_beside_right=True,
)
