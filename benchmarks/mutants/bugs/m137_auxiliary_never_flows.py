"""The load-balancing loss is computed, and its gradient never reaches the router."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.dispatch import DispatchLines, split_experts
from benchmarks.mutants.models.routed import Mixture, mixture_step
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    lines = DispatchLines(auxiliary_scale=lambda _ranks: 0.0) if planted else DispatchLines()
    return on_mesh(
        "a load-balancing loss that is injected, with its gradient",
        mixture_step(Mixture(balance=0.5, injected=True)),
        split_experts("all-to-all", lines),
        {"dp": 2},
    )


BUG = Bug(
    id="M137",
    name="auxiliary-loss-never-flows",
    phase="B",
    seen_in="Automodel#1412",
    root="output gradient model/softmax",
    cause=CauseKind.ZERO_EVERYWHERE,
    plant=plant,
)
