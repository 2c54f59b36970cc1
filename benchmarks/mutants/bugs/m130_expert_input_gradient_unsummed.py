"""Each rank runs its own experts on tokens that all have; the tokens' gradient is that of a rank's experts alone."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.lines import unchanged
from benchmarks.mutants.models.dispatch import DispatchLines, split_experts
from benchmarks.mutants.models.routed import Mixture, mixture_step
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    lines = DispatchLines(enter=unchanged) if planted else DispatchLines()
    return on_mesh(
        "experts whose outputs are summed", mixture_step(Mixture()), split_experts("summed outputs", lines), {"tp": 2}
    )


BUG = Bug(
    id="M130",
    name="expert-input-gradient-unsummed",
    phase="B,R",
    seen_in="transformers#48205",
    root="output gradient first",
    cause=CauseKind.PARTS_BESIDE_WHOLE,
    plant=plant,
)
