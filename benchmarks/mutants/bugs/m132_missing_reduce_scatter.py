"""Each rank runs its own experts on all tokens, and takes its tokens' outputs before anyone has summed them."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import own_part
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.dispatch import DispatchLines, split_experts
from benchmarks.mutants.models.routed import Mixture, mixture_step


def plant(planted: bool) -> Configuration:
    lines = DispatchLines(collect=own_part) if planted else DispatchLines()
    return on_mesh(
        "experts on tokens of all ranks", mixture_step(Mixture()), split_experts("gathered tokens", lines), {"dp": 2}
    )


BUG = Bug(
    id="M132",
    name="missing-reduce-scatter-of-experts",
    phase="F",
    seen_in="Automodel#1260",
    root="input last",
    unexplained="what a rank's own experts give a token is recorded only after all of it is weighted and added up",
    plant=plant,
)
