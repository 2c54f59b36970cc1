"""Correct configurations: none may be refused. A kind is a file; `configurations()` has all of them in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.correct import (
    attention,
    blocks,
    by_hand,
    data_parallel,
    dropout,
    dtypes,
    layers,
    losses,
    meshes,
    optimizers,
    padding,
    trainings,
    transformers_plans,
)

if TYPE_CHECKING:
    from benchmarks.mutants.correct.configuration import Configuration

KINDS = (
    *(by_hand, padding, trainings, data_parallel, layers, losses, attention, blocks, optimizers, dtypes),
    *(dropout, meshes, transformers_plans),
)


def configurations() -> list[Configuration]:
    """All of them, a kind after the other.

    Raises:
        ValueError: two have the same name.
    """
    every = [one for kind in KINDS for one in kind.configurations()]
    names = [one.name for one in every]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"configurations need names of their own; these come twice: {', '.join(twice)}")
    return every
