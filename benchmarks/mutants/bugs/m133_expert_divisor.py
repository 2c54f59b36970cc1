"""Experts' gradients are averaged over the copies of an expert, not over all shares of the batch that they come of."""

from __future__ import annotations

from fractions import Fraction

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.dispatch import DispatchLines, split_experts
from benchmarks.mutants.models.routed import Mixture, mixture_step
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    lines = DispatchLines(average_experts=lambda grad, shares: grad / (shares // 2)) if planted else DispatchLines()
    return on_mesh(
        "experts on two copies of two ranks",
        mixture_step(Mixture()),
        split_experts("all-to-all", lines),
        {"dp": 2, "ep": 2},
    )


BUG = Bug(
    id="M133",
    name="expert-divisor",
    phase="B",
    seen_in="Megatron-LM#5956",
    root="gradient experts.*",
    cause=CauseKind.SCALED,
    factor=Fraction(2),
    plant=plant,
)
