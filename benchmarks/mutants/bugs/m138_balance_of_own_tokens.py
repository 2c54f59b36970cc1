"""Each rank balances the loads of its own tokens: the mean of products is not the product of the means."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.lines import unchanged
from benchmarks.mutants.models.dispatch import DispatchLines, split_experts
from benchmarks.mutants.models.routed import Mixture, mixture_step
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    lines = DispatchLines(sum_counts=unchanged) if planted else DispatchLines()
    return on_mesh(
        "a load-balancing loss of all tokens",
        mixture_step(Mixture(balance=0.5)),
        split_experts("all-to-all", lines),
        {"dp": 2},
    )


BUG = Bug(
    id="M138",
    name="balance-of-own-tokens",
    phase="F",
    seen_in="review: expert parallelism",
    root="loss loss",
    cause=CauseKind.OWN_TOKENS,
    plant=plant,
)
