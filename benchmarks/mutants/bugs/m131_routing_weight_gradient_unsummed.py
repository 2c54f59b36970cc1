"""Each rank's experts give the routing weights a part of their gradient; nobody sums the parts."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.lines import unchanged
from benchmarks.mutants.models.dispatch import DispatchLines, split_experts
from benchmarks.mutants.models.routed import Mixture, mixture_step
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    lines = DispatchLines(enter_weights=unchanged) if planted else DispatchLines()
    return on_mesh(
        "experts whose outputs are summed, with their weights",
        mixture_step(Mixture()),
        split_experts("summed outputs", lines),
        {"tp": 2},
    )


BUG = Bug(
    id="M131",
    name="routing-weight-gradient-unsummed",
    phase="B,R",
    seen_in="transformers#48687",
    root="output gradient model/softmax",
    cause=CauseKind.UNREDUCED,
    plant=plant,
)
