"""The rank of a token weighs what its experts gave, and so does the line before."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.dispatch import DispatchLines, split_experts
from benchmarks.mutants.models.routed import Mixture, mixture_step


def plant(planted: bool) -> Configuration:
    lines = DispatchLines(weigh=lambda rows, weights: rows * weights) if planted else DispatchLines()
    return on_mesh(
        "weights on the rank of the token", mixture_step(Mixture()), split_experts("all-to-all", lines), {"dp": 2}
    )


BUG = Bug(
    id="M140",
    name="routing-weights-twice",
    phase="F",
    seen_in="review: expert parallelism",
    root="input last",
    unexplained="rows of two experts are weighted and added up before a module is given them",
    plant=plant,
)
