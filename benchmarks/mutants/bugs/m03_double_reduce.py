"""The gradient is all-reduced in the layer and again in its wrapper."""

from __future__ import annotations

from fractions import Fraction

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import Copy
from shardproof.proving.cause import CauseKind

BUG = Bug(
    id="M03",
    name="double-reduce",
    phase="B",
    seen_in="torchtitan#2106",
    line="column_input",
    change=lambda x: Copy.apply(Copy.apply(x)),
    root="output gradient layers.0.mlp_norm",
    cause=CauseKind.SCALED,
    factor=Fraction(2),
)
