"""What the experts give back goes to the ranks in the order of experts, not in the order in which it came."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.dispatch import DispatchLines, split_experts
from benchmarks.mutants.models.routed import Mixture, mixture_step


def plant(planted: bool) -> Configuration:
    lines = DispatchLines(restore=lambda rows, _order: rows) if planted else DispatchLines()
    step, parallelize = mixture_step(Mixture()), split_experts("all-to-all", lines)
    return on_mesh("two experts on each rank", step, parallelize, {"dp": 2})


BUG = Bug(
    id="M139",
    name="rows-not-restored",
    phase="F",
    seen_in="torchtitan#4054",
    root="input last",
    unexplained=(
        "rows of experts are weighted and added up before a module is given them: in which order they came "
        "is not recorded"
    ),
    plant=plant,
)
