"""Compares every tensor of a step by hand with the reference's: the notebook's `cmp` lines, names and order."""

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

    from shardproof.byhand.n_devices import RankStep
    from shardproof.byhand.sharding import LayerSplit
    from shardproof.byhand.sign_flips import SignFlips
    from shardproof.byhand.step import Step
    from shardproof.byhand.tolerance import Scales
    from shardproof.comparison import Comparison


def cmp(s: str, t1: Tensor, t2: Tensor) -> None:
    """Print the notebook's line: whether t1 and t2 are equal, whether nearly so, and their largest difference.

    Nearly is what `torch.allclose` says. `shardproof.compare` has the same as a value, with tolerances of one's own.
    """
    print(compare(t1, t2, name=s, rtol=1e-5, atol=1e-8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What a step by hand is compared with: the reference, each tensor's scale, the effect of sign flips in relu."""

    reference: Step
    scales: Scales
    sign_flips: SignFlips
    lr: float


def compare_forward(step: Step, baseline: Baseline) -> tuple[Comparison, ...]:
    """The output and the loss of one device."""
    return (
        _compare(step.out, baseline.reference.out, name="forward pass", scale=baseline.scales.out),
        _compare(step.loss, baseline.reference.loss, name="loss", scale=baseline.scales.loss),
    )


def compare_gradients(step: Step, baseline: Baseline) -> tuple[Comparison, ...]:
    """Every dW and db of one device, the last layer first, as the backward pass goes."""
    lines: list[Comparison] = []
    for l, ours in reversed(list(enumerate(step.gradients))):
        lines += _compare_gradient(ours, baseline.reference.gradients[l], baseline, l)
    return tuple(lines)


def compare_updates(step: Step, baseline: Baseline, *, prefix: str = "") -> tuple[Comparison, ...]:
    """Every updated W and b, the first layer first."""
    lines: list[Comparison] = []
    for l, (ours, theirs) in enumerate(zip(step.updated, baseline.reference.updated, strict=True)):
        scale, flips = baseline.scales.updated[l], baseline.sign_flips.gradients[l]
        lines += [
            _compare(
                ours.W, theirs.W, name=f"{prefix}manual_nW{l + 1}", scale=scale.W, allowance=baseline.lr * flips.W
            ),
            _compare(
                ours.b, theirs.b, name=f"{prefix}manual_nb{l + 1}", scale=scale.b, allowance=baseline.lr * flips.b
            ),
        ]
    return tuple(lines)


def compare_forward_of_ranks(ranks: Sequence[RankStep], baseline: Baseline) -> tuple[Comparison, ...]:
    """The gathered output: the first rank's, and each other rank's that differs from it in any bit."""
    replicas = [rank.tensors["out"] for rank in ranks]
    return tuple(
        _compare(out, baseline.reference.out, name=f"TP - forward pass{suffix}", scale=baseline.scales.out)
        for out, suffix in _tell_replicas_apart(replicas)
    )


def compare_gradients_of_ranks(
    ranks: Sequence[RankStep], layer_splits: Sequence[LayerSplit], baseline: Baseline
) -> tuple[Comparison, ...]:
    """Every rank's slice of dW and db, with the same slice of the reference's; a replicated db on every rank."""
    lines: list[Comparison] = []
    for l, layer_split in reversed(list(enumerate(layer_splits))):
        for rank, step in enumerate(ranks):
            ours = Layer(W=step.tensors[f"dW{l + 1}"], b=step.tensors[f"db{l + 1}"])
            theirs = shard_layer(baseline.reference.gradients[l], layer_split, rank=rank, size=len(ranks))
            lines += _compare_gradient(ours, theirs, baseline, l, suffix=f"_{rank}")
    return tuple(lines)


def compare_updates_of_ranks(
    gathered: Step, ranks: Sequence[RankStep], layer_splits: Sequence[LayerSplit], baseline: Baseline
) -> tuple[Comparison, ...]:
    """The updated slices, gathered; and each replica of b that differs from the first rank's in any bit."""
    lines = list(compare_updates(gathered, baseline, prefix="TP - "))
    for l, layer_split in enumerate(layer_splits):
        if not layer_split.z_is_sharded:
            replicas = [rank.tensors[f"nb{l + 1}"] for rank in ranks]
            lines += [
                _compare(
                    b,
                    baseline.reference.updated[l].b,
                    name=f"TP - manual_nb{l + 1}{suffix}",
                    scale=baseline.scales.updated[l].b,
                    allowance=baseline.lr * baseline.sign_flips.gradients[l].b,
                )
                for b, suffix in _tell_replicas_apart(replicas)[1:]
            ]
    return tuple(lines)


def compare_forward_of_stages(step: Step, baseline: Baseline) -> tuple[Comparison, ...]:
    """What the stages of a pipeline hand on, the output and the loss, the microbatches put together."""
    return (
        *(
            _compare(ours, theirs, name=f"PP - h{l}", scale=scale)
            for l, (ours, theirs, scale) in enumerate(
                zip(step.h, baseline.reference.h, baseline.scales.z[:-1], strict=True), start=1
            )
        ),
        _compare(step.out, baseline.reference.out, name="PP - forward pass", scale=baseline.scales.out),
        _compare(step.loss, baseline.reference.loss, name="PP - loss", scale=baseline.scales.loss),
    )


def compare_gradients_of_stages(step: Step, baseline: Baseline) -> tuple[Comparison, ...]:
    """Every accumulated dW and db of a pipeline, the last layer first, and before each layer the dh sent back to it."""
    lines: list[Comparison] = []
    for l, ours in reversed(list(enumerate(step.gradients))):
        if l < len(step.dh):
            dh, scale, flips = baseline.reference.dh[l], baseline.scales.dh[l], baseline.sign_flips.dh[l]
            lines.append(_compare(step.dh[l], dh, name=f"PP - dh{l + 1}", scale=scale, allowance=flips))
        lines += _compare_gradient(ours, baseline.reference.gradients[l], baseline, l, prefix="PP - ")
    return tuple(lines)


def _tell_replicas_apart(replicas: Sequence[Tensor]) -> list[tuple[Tensor, str]]:
    """Keep the first replica, and each that differs from it, with the rank in its name."""
    first, *others = replicas
    differing = [(other, f"_{rank}") for rank, other in enumerate(others, start=1) if not torch.equal(other, first)]
    return [(first, ""), *differing]


def _compare_gradient(
    ours: Layer, theirs: Layer, baseline: Baseline, l: int, *, prefix: str = "", suffix: str = ""
) -> tuple[Comparison, Comparison]:
    scale, flips = baseline.scales.gradients[l], baseline.sign_flips.gradients[l]
    return (
        _compare(ours.W, theirs.W, name=f"{prefix}dW{l + 1}{suffix}", scale=scale.W, allowance=flips.W),
        _compare(ours.b, theirs.b, name=f"{prefix}db{l + 1}{suffix}", scale=scale.b, allowance=flips.b),
    )


def _compare(actual: Tensor, expected: Tensor, *, name: str, scale: float, allowance: float = 0.0) -> Comparison:
    """Compare within epsilons of the scale, plus `allowance`: the effect of sign flips."""
    numbers = torch.finfo(expected.dtype)
    atol = count_epsilons(expected.dtype) * numbers.eps * max(scale, numbers.tiny) + allowance
    return compare(
        actual,
        expected,
        name=name,
        rtol=RELATIVE_EPSILONS * numbers.eps,
        atol=atol if math.isfinite(atol) else 0.0,  # NaN or infinity: no tolerance
    )
