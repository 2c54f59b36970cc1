"""Activations computed again in the backward: PyTorch's two checkpoints and one by hand, with dropout inside."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.dropping import Dropping, RecomputeByHand, dropping_step, split_dropping
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WAYS: Mapping[str, Mapping[str, Any]] = {
    "not at all": {},
    "reentrant": {"use_reentrant": True},
    "non-reentrant": {"use_reentrant": False},
    "non-reentrant, determinism checked": {"use_reentrant": False, "determinism_check": "default"},
    "non-reentrant, no early stop": {"use_reentrant": False, "early_stop": False},
}


class ByHand(Dropping):
    """`core` by a hand-made Function on the ranks."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(RecomputeByHand.apply(h, self.core, True) if self.split else self.core(h))


class WithoutDropout(Dropping):
    """Nothing random inside."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Identity()


def configurations() -> Iterator[Configuration]:
    """Each way with and without dropout, at 2 and 4 ranks."""
    optimizers = itertools.cycle(("AdamW", "SGD", "momentum"))
    for (name, settings), model, devices in itertools.product(WAYS.items(), (Dropping, WithoutDropout), (2, 4)):
        optimizer = next(optimizers)
        step = dropping_step(model=model, optimizer=MORE_OPTIMIZERS[optimizer])
        words = f"recomputed {name}, {'dropout' if model is Dropping else 'no dropout'}, {optimizer}"
        yield sharded(words, step, lambda m, _mesh, settings=settings: split_dropping(m, **settings), devices)
    for devices in (2, 4):
        step = dropping_step(model=ByHand, optimizer=MORE_OPTIMIZERS["AdamW"])
        yield sharded("recomputed by hand, dropout", step, lambda m, _mesh: split_dropping(m), devices)
