"""Experts lie whole on one rank each, and get tokens of all ranks: their gradients are summed, not averaged."""

from __future__ import annotations

from fractions import Fraction

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.expert_parallel import expert_parallel, routed_step
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    parallelize = expert_parallel(divided=not planted)
    return on_mesh("experts on ranks of their own, tokens exchanged", routed_step(), parallelize, {"dp": 2})


BUG = Bug(
    id="M103",
    name="expert-gradient-times-ranks",
    phase="B",
    seen_in="pytorch#160285",
    root="gradient moe.weights",
    cause=CauseKind.SCALED,
    factor=Fraction(2),
    plant=plant,
)
