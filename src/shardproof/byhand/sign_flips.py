"""Inputs of relu whose sign rounding flips, and how far that moves each gradient.

relu's derivative jumps at z = 0. Where |z| is within rounding error, two correct steps may see different signs; then
one of them has the gradient of that element and the other has 0, a difference of a whole term, not of an epsilon. It is
rare in float32 and common in bfloat16. Two backward passes, one with each sign, give its effect on each gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.byhand.functions import ACTIVATIONS, LOSSES
from shardproof.byhand.one_device import Backward, Forward, backward
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
class SignFlips:
    """The number of z whose sign rounding flipped, and the largest change by that of each layer's gradients and dh."""

    count: int
    gradients: tuple[LayerScale, ...]
    dh: tuple[float, ...]


def find_sign_flips(
    settings: Settings, layers: Sequence[Layer], batch: Batch, *, step: Step, reference: Step, scales: Scales
) -> SignFlips:
    """Find the z within rounding error of zero that have another sign in `step` than in `reference`.

    Args:
        settings: with activation relu; for other activations nothing is found.
        layers: the reference's parameters before the step.
        batch: of the step.
        step: computed by hand.
        reference: computed by PyTorch.
        scales: of the step.
    """
    hidden = len(layers) - 1
    nothing = SignFlips(count=0, gradients=(LayerScale(W=0.0, b=0.0),) * len(layers), dh=(0.0,) * hidden)
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
    return SignFlips(
        count=count,
        gradients=tuple(
            LayerScale(W=float((one.W - other.W).abs().max()), b=float((one.b - other.b).abs().max()))
            for one, other in zip(here.gradients, there.gradients, strict=True)
        ),
        dh=tuple(float((one - other).abs().max()) for one, other in zip(here.dh, there.dh, strict=True)),
    )


def _go_backward(
    settings: Settings, layers: Sequence[Layer], batch: Batch, z: Sequence[Tensor], out: Tensor
) -> Backward:
    activation = ACTIVATIONS[settings.activation]
    saved = Forward(h=(batch.x, *(activation.forward(z_l) for z_l in z)), z=tuple(z), out=out)
    return backward(layers, saved, LOSSES[settings.loss].backward(out, batch.y), activation)
