"""Experts of a learned router, whole on ranks of their own: tokens brought in every way, drops, auxiliary losses."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.dispatch import DispatchLines, exchange_functionally, split_experts
from benchmarks.mutants.models.routed import Mixture, mixture_step
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator

MIXTURES = {
    "two of four experts": Mixture(),
    "one of four experts": Mixture(chosen=1),
    "three of eight experts": Mixture(experts=8, chosen=3),
    "a shared expert": Mixture(shared=True),
    "room for ten": Mixture(capacity=10),
    "room for the mean": Mixture(capacity=24),
    "balanced": Mixture(balance=0.5),
    "balanced, z-loss": Mixture(balance=0.5, z=0.1),
    "balanced by an injected loss": Mixture(balance=0.5, injected=True),
}
MESHES = ({"dp": 2}, {"ep": 4})
BUFFERS = {"room for ten in buffers": Mixture(capacity=10), "room for all in buffers": Mixture(capacity=96)}


def configurations() -> Iterator[Configuration]:
    """Tokens exchanged, gathered or in buffers; outputs summed over ranks with the same tokens; copies of experts."""
    optimizers = itertools.cycle(("SGD", "AdamW", "momentum", "Adam"))

    def make(name: str, mixture: Mixture, way: str, mesh: dict[str, int], **lines: object) -> Configuration:
        optimizer = next(optimizers)
        step = mixture_step(mixture, 48, MORE_OPTIMIZERS[optimizer], steps=2)
        parallelize = split_experts(way, DispatchLines(**lines))
        return on_mesh(f"routed experts, {name}, {optimizer}", step, parallelize, mesh)

    for (name, mixture), mesh in itertools.product(MIXTURES.items(), MESHES):
        yield make(f"{name}, all-to-all", mixture, "all-to-all", mesh)
        if mixture.capacity is None:
            yield make(f"{name}, gathered tokens", mixture, "gathered tokens", mesh)
    for (name, mixture), mesh in itertools.product(BUFFERS.items(), MESHES):
        yield make(name, mixture, "buffers", mesh)
    for name, ranks in itertools.product(("two of four experts", "a shared expert", "balanced, z-loss"), (2, 4)):
        yield make(f"{name}, summed outputs", MIXTURES[name], "summed outputs", {"tp": ranks})
    for name in ("two of four experts", "balanced by an injected loss"):
        yield make(f"{name}, copies", MIXTURES[name], "all-to-all", {"dp": 2, "ep": 2})
        lines = {"exchange": exchange_functionally}
        yield make(f"{name}, functional all-to-all", MIXTURES[name], "all-to-all", {"dp": 2}, **lines)
