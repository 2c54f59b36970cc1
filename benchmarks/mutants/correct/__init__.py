"""Correct configurations: none may be refused. A kind is a file; `configurations()` has all of them in order."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from benchmarks.mutants.correct import (
    asynchronous,
    attention,
    blocks,
    buffers,
    by_hand,
    casts,
    clipping,
    constants,
    contexts,
    data_parallel,
    ddp,
    decoders,
    dropout,
    dtypes,
    frozen,
    initial_values,
    layers,
    losses,
    masks,
    meshes,
    mixtures,
    odd_state,
    optimizers,
    orders,
    other_models,
    padding,
    parallel_state,
    pipelines,
    recomputation,
    right_twins,
    routed_experts,
    trainings,
    transformers_plans,
    zero_and_accumulation,
)

if TYPE_CHECKING:
    from benchmarks.mutants.configuration import Configuration

KINDS = (
    *(by_hand, padding, trainings, data_parallel, layers, losses, attention, blocks, optimizers, dtypes),
    *(dropout, meshes, transformers_plans, decoders, frozen, clipping, mixtures, ddp, recomputation, orders),
    *(masks, buffers, constants, parallel_state, asynchronous, initial_values, casts, odd_state, other_models),
    *(routed_experts, pipelines, contexts, zero_and_accumulation, right_twins),
)


def configurations() -> list[Configuration]:
    """All of them, a kind after the other.

    Raises:
        ValueError: two have the same name.
    """
    every = [one for kind in KINDS for one in kind.configurations()]
    if twice := sorted(name for name, count in Counter(one.name for one in every).items() if count > 1):
        raise ValueError(f"configurations need names of their own; these come twice: {', '.join(twice)}")
    return every


def by_kind() -> dict[str, list[str]]:
    """Their names by the name of their kind's file."""
    return {kind.__name__.rpartition(".")[2]: [one.name for one in kind.configurations()] for kind in KINDS}


def title_of(kind: str) -> str:
    """The name of a kind's file as words."""
    return kind.replace("_", " ")
