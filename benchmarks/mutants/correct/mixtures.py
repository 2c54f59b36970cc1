"""Experts: split by their width, or each on a rank of its own; some of them without tokens, which the user allows."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from benchmarks.mutants.configuration import Configuration, on_mesh, sharded
from benchmarks.mutants.models.expert_parallel import expert_parallel, routed_step
from benchmarks.mutants.models.experts import expert_step, split_experts
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator

# Which expert each of the tokens goes to, and which experts get none.
ROUTES = {
    "every expert": ([0, 1, 2, 3, 2, 1, 0, 3], ()),
    "none for one": ([0, 1, 3, 3, 0, 1], (2,)),
    "none for two": ([0, 3, 3, 0, 3], (1, 2)),
    "all to the last but one token": ([3, 3, 3, 3, 3, 0], (1, 2)),
}


def configurations() -> Iterator[Configuration]:
    """Widths split over 2 and 4 ranks; experts over 2 and 4 ranks with the tokens."""
    optimizers = itertools.cycle(("AdamW", "SGD", "momentum", "Adam"))
    for (name, (routes, unused)), devices in itertools.product(ROUTES.items(), (2, 4)):
        for optimizer in (next(optimizers), next(optimizers)):
            allow = tuple(f"VACUOUS * experts.{number}.*" for number in unused)
            step = expert_step(torch.tensor(routes), MORE_OPTIMIZERS[optimizer])
            yield sharded(f"experts by width, {name}, {optimizer}", step, split_experts, devices, allow=allow)
    for devices, tokens in itertools.product((2, 4), (16, 24, 40)):
        optimizer = next(optimizers)
        step = routed_step(tokens, MORE_OPTIMIZERS[optimizer])
        words = f"experts on their ranks, {tokens} tokens, {optimizer}"
        yield on_mesh(words, step, expert_parallel(), {"dp": devices})
