"""The gradient of the load-balancing loss, which a function injects, is scaled by the number of ranks."""

from __future__ import annotations

from fractions import Fraction

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.dispatch import DispatchLines, split_experts
from benchmarks.mutants.models.routed import Mixture, mixture_step
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    lines = DispatchLines(auxiliary_scale=float) if planted else DispatchLines()
    return on_mesh(
        "a load-balancing loss that is injected",
        mixture_step(Mixture(balance=0.5, injected=True)),
        split_experts("all-to-all", lines),
        {"dp": 2},
    )


BUG = Bug(
    id="M136",
    name="auxiliary-loss-times-ranks",
    phase="B",
    seen_in="Megatron-LM#5047",
    root="output gradient model/softmax",
    cause=CauseKind.SCALED,
    factor=Fraction(2),
    plant=plant,
)
