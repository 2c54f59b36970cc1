"""Each rank counts the room of an expert for its own tokens, so that all ranks together keep more."""

from __future__ import annotations

import torch

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.dispatch import DispatchLines, split_experts
from benchmarks.mutants.models.routed import Mixture, mixture_step


def plant(planted: bool) -> Configuration:
    lines = DispatchLines(counts_before=torch.zeros_like) if planted else DispatchLines()
    return on_mesh(
        "experts with room for ten", mixture_step(Mixture(capacity=10)), split_experts("all-to-all", lines), {"dp": 2}
    )


BUG = Bug(
    id="M135",
    name="capacity-counted-locally",
    phase="F",
    seen_in="review: expert parallelism",
    root="input last",
    unexplained="experts are given more rows than on one device, and rows of different numbers are not compared",
    plant=plant,
)
