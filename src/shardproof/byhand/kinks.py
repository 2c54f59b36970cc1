"""What a rectifier's kink does to a comparison.

A relu's derivative jumps at z = 0. Where rounding alone decides on which side z falls, two correct steps take
different sides, and the gradient of that one element is there or not there: a difference of the size of a term, not of
an epsilon. It is rare in float32 and usual in bfloat16. How much it changes each gradient can be computed: by going
backward twice, once on either side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.byhand.functions import ACTIVATIONS, LOSSES
from shardproof.byhand.one_device import Forward, backward
from shardproof.byhand.tolerance import LayerScale, count_epsilons

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from shardproof.byhand.data import Batch
    from shardproof.byhand.model import Layer
    from shardproof.byhand.settings import Settings
    from shardproof.byhand.step import Step
    from shardproof.byhand.tolerance import Scales


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinks:
    """How many z fell on the other side of zero by rounding, and how far that moves each layer's gradients at most."""

    count: int
    gradients: tuple[LayerScale, ...]


def find_kinks(
    settings: Settings, layers: Sequence[Layer], batch: Batch, *, step: Step, reference: Step, scales: Scales
) -> Kinks:
    """Find the z that are within noise of zero and have another sign in `step` than in `reference`.

    Args:
        settings: with activation relu; another has no kink, and none is found.
        layers: the reference's parameters before the step.
        batch: the step's.
        step: computed by hand.
        reference: PyTorch's.
        scales: of the step.
    """
    nothing = Kinks(count=0, gradients=(LayerScale(W=0.0, b=0.0),) * len(layers))
    if settings.activation != "relu":
        return nothing
    noise = count_epsilons(settings.dtype) * torch.finfo(settings.dtype).eps
    flips = [
        ((ours > 0) != (theirs > 0)) & (theirs.abs() <= noise * scale)
        for ours, theirs, scale in zip(step.z, reference.z, scales.z, strict=False)
    ]
    count = sum(int(flip.sum()) for flip in flips)
    if count == 0:
        return nothing
    other_side = [
        torch.where(flip, ours, theirs) for flip, ours, theirs in zip(flips, step.z, reference.z, strict=True)
    ]
    here, there = (_go_backward(settings, layers, batch, z, reference.out) for z in (reference.z, other_side))
    return Kinks(
        count=count,
        gradients=tuple(
            LayerScale(W=float((one.W - other.W).abs().max()), b=float((one.b - other.b).abs().max()))
            for one, other in zip(here, there, strict=True)
        ),
    )


def _go_backward(
    settings: Settings, layers: Sequence[Layer], batch: Batch, z: Sequence[Tensor], out: Tensor
) -> tuple[Layer, ...]:
    activation = ACTIVATIONS[settings.activation]
    passed = Forward(h=(batch.x, *(activation.forward(z_l) for z_l in z)), z=tuple(z), out=out)
    return backward(layers, passed, LOSSES[settings.loss].backward(out, batch.y), activation)
