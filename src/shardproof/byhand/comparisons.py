"""Every tensor of a step by hand, beside the reference's: the notebook's `cmp` lines, in its order and by its names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.byhand.model import Layer
from shardproof.byhand.sharding import shard_layer
from shardproof.byhand.tolerance import RELATIVE_EPSILONS, count_epsilons
from shardproof.comparison import compare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from shardproof.byhand.kinks import Kinks
    from shardproof.byhand.n_devices import RankStep
    from shardproof.byhand.sharding import Placement
    from shardproof.byhand.step import Step
    from shardproof.byhand.tolerance import Scales
    from shardproof.comparison import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What a step by hand is held against: the reference, each tensor's scale, and what kinks explain."""

    reference: Step
    scales: Scales
    kinks: Kinks
    lr: float


def compare_forward(step: Step, measure: Measure) -> tuple[Comparison, ...]:
    """The output and the loss of one device."""
    return (
        _compare(step.out, measure.reference.out, name="forward pass", scale=measure.scales.out),
        _compare(step.loss, measure.reference.loss, name="loss", scale=measure.scales.loss),
    )


def compare_gradients(step: Step, measure: Measure) -> tuple[Comparison, ...]:
    """Every dW and db of one device, the last layer first, as the backward pass goes."""
    lines: list[Comparison] = []
    for l, ours in reversed(list(enumerate(step.gradients))):
        lines += _compare_gradient(ours, measure.reference.gradients[l], measure, l)
    return tuple(lines)


def compare_updates(step: Step, measure: Measure, *, prefix: str = "") -> tuple[Comparison, ...]:
    """Every updated W and b, the first layer first."""
    lines: list[Comparison] = []
    for l, (ours, theirs) in enumerate(zip(step.updated, measure.reference.updated, strict=True)):
        scale, kink = measure.scales.updated[l], measure.kinks.gradients[l]
        lines += [
            _compare(ours.W, theirs.W, name=f"{prefix}manual_nW{l + 1}", scale=scale.W, beside=measure.lr * kink.W),
            _compare(ours.b, theirs.b, name=f"{prefix}manual_nb{l + 1}", scale=scale.b, beside=measure.lr * kink.b),
        ]
    return tuple(lines)


def compare_forward_of_ranks(ranks: Sequence[RankStep], measure: Measure) -> tuple[Comparison, ...]:
    """The gathered output: the first rank's, and every other rank's that is not the same bit for bit."""
    replicas = [rank.tensors["out"] for rank in ranks]
    return tuple(
        _compare(out, measure.reference.out, name=f"TP - forward pass{suffix}", scale=measure.scales.out)
        for out, suffix in _tell_replicas_apart(replicas)
    )


def compare_gradients_of_ranks(
    ranks: Sequence[RankStep], placements: Sequence[Placement], measure: Measure
) -> tuple[Comparison, ...]:
    """Every rank's slice of dW and db beside the same slice of the reference's; a replicated db on every rank."""
    lines: list[Comparison] = []
    for l, placement in reversed(list(enumerate(placements))):
        for rank, step in enumerate(ranks):
            ours = Layer(W=step.tensors[f"dW{l + 1}"], b=step.tensors[f"db{l + 1}"])
            theirs = shard_layer(measure.reference.gradients[l], placement, rank=rank, size=len(ranks))
            lines += _compare_gradient(ours, theirs, measure, l, suffix=f"_{rank}")
    return tuple(lines)


def compare_updates_of_ranks(
    gathered: Step, ranks: Sequence[RankStep], placements: Sequence[Placement], measure: Measure
) -> tuple[Comparison, ...]:
    """The updated slices, gathered; and each replica of a whole b that is not the first rank's bit for bit."""
    lines = list(compare_updates(gathered, measure, prefix="TP - "))
    for l, placement in enumerate(placements):
        if not placement.z_is_sharded:
            replicas = [rank.tensors[f"nb{l + 1}"] for rank in ranks]
            lines += [
                _compare(
                    b,
                    measure.reference.updated[l].b,
                    name=f"TP - manual_nb{l + 1}{suffix}",
                    scale=measure.scales.updated[l].b,
                    beside=measure.lr * measure.kinks.gradients[l].b,
                )
                for b, suffix in _tell_replicas_apart(replicas)[1:]
            ]
    return tuple(lines)


def _tell_replicas_apart(replicas: Sequence[Tensor]) -> list[tuple[Tensor, str]]:
    """Keep the first replica, and each that differs from it, with the rank in its name."""
    first, *others = replicas
    differing = [(other, f"_{rank}") for rank, other in enumerate(others, start=1) if not torch.equal(other, first)]
    return [(first, ""), *differing]


def _compare_gradient(
    ours: Layer, theirs: Layer, measure: Measure, l: int, *, suffix: str = ""
) -> tuple[Comparison, Comparison]:
    scale, kink = measure.scales.gradients[l], measure.kinks.gradients[l]
    return (
        _compare(ours.W, theirs.W, name=f"dW{l + 1}{suffix}", scale=scale.W, beside=kink.W),
        _compare(ours.b, theirs.b, name=f"db{l + 1}{suffix}", scale=scale.b, beside=kink.b),
    )


def _compare(actual: Tensor, expected: Tensor, *, name: str, scale: float, beside: float = 0.0) -> Comparison:
    """Compare within epsilons of the scale. `beside` comes on top: what a kink explains."""
    numbers = torch.finfo(expected.dtype)
    atol = count_epsilons(expected.dtype) * numbers.eps * max(scale, numbers.tiny) + beside
    return compare(
        actual,
        expected,
        name=name,
        rtol=RELATIVE_EPSILONS * numbers.eps,
        atol=atol if math.isfinite(atol) else 0.0,  # a run that has left the numbers gets no allowance
    )
