"""The vocabulary-parallel loss is fed gathered logits: every rank's sum is the whole, and N of them are added."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from benchmarks.mutants.block import Sizes
from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import Gather, Reduce
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor


def exponentials(shifted: Tensor) -> Tensor:
    """Sum over gathered logits, summed over ranks again: N times too large."""
    whole = Gather.apply(shifted.movedim(-1, 0))
    return Reduce.apply(whole.exp().sum(0))


BUG = Bug(
    id="M28",
    name="gathered-logits-loss",
    phase="F",
    seen_in="Megatron-LM#7452",
    line="exponentials",
    change=exponentials,
    root="output loss",
    cause=CauseKind.OFF_BY_CONSTANT,
    factor=Fraction(2),
    sizes=Sizes(vocabulary=12),
)
