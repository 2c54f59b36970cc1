"""The absolute tolerance of each tensor of a correct step, estimated from how the tensor is computed.

A fixed tolerance does not work. The gradient of a mean over 2048 outputs is about 1e-6, and with torch.testing's 1e-5 a
gradient of zeros would pass; in bfloat16 a sum that cancels has an error far above 1e-5 and is still right. So each
tensor has a scale: the root mean square of its elements if the terms of each sum were independent. Rounding errors are
some epsilons of the scale; errors of a wrong step are about as large as the scale itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from shardproof.byhand.data import Batch
    from shardproof.byhand.model import Layer

EPSILONS = 256
EPSILONS_OF_16_BITS = 24
RELATIVE_EPSILONS = 4
"""Allowed difference in machine epsilons of the expected element, in addition to those of the scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerScale:
    """A size for W and one for b of a layer, or for their gradients."""

    W: float
    b: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scales:
    """The scale of each tensor of a step: of z, dh of the hidden layers, the gradients and the updated parameters."""

    z: tuple[float, ...]
    dh: tuple[float, ...]
    out: float
    loss: float
    gradients: tuple[LayerScale, ...]
    updated: tuple[LayerScale, ...]


def count_epsilons(dtype: torch.dtype) -> int:
    """Allowed difference in machine epsilons of the scale: three times the largest of thousands of correct steps.

    Fewer for 16-bit dtypes: PyTorch sums them in float32, so they are rounded less often (the largest seen was 17).
    """
    return EPSILONS_OF_16_BITS if dtype.itemsize == 2 else EPSILONS


def estimate_scales(layers: Sequence[Layer], batch: Batch, *, loss: str, lr: float, step: int = 1) -> Scales:
    """Carry root mean squares through the step: a sum of K independent terms is sqrt(K) times as large as one."""
    tiny = torch.finfo(batch.x.dtype).tiny  # below it, precision falls and errors do not
    B = batch.x.shape[0]
    h, z = [_rms(batch.x)], []
    for layer in layers:
        z.append(math.sqrt(layer.W.shape[1]) * _rms(layer.W) * h[-1] + _rms(layer.b))
        h.append(z[-1])  # an activation hardly changes the scale
    out, O = z[-1], layers[-1].W.shape[0]
    if loss == "mse":
        distance = out + _rms(batch.y)
        loss_scale, dz = distance**2, 2 / (B * O) * distance
    else:
        loss_scale, dz = out + math.log(O), (1 + out) / (B * math.sqrt(O))
    gradients: list[LayerScale] = []
    dh: list[float] = []
    for layer, h_l in zip(reversed(layers), reversed(h[:-1]), strict=True):
        dz = max(dz, tiny)
        gradients.insert(0, LayerScale(W=math.sqrt(B) * dz * h_l, b=math.sqrt(B) * dz))
        dz *= math.sqrt(layer.W.shape[0]) * _rms(layer.W)
        dh.insert(0, max(dz, tiny))
    # An update rounds W once. A few of the allowed epsilons are enough for that; all of them could hide a wrong update.
    # Over several steps the roundings add up like a random walk.
    rounded = math.sqrt(step) / 16
    return Scales(
        z=tuple(z),
        dh=tuple(dh[1:]),  # the batch needs none
        out=out,
        loss=loss_scale,
        gradients=tuple(gradients),
        updated=tuple(
            LayerScale(W=_rms(layer.W) * rounded + lr * gradient.W, b=_rms(layer.b) * rounded + lr * gradient.b)
            for layer, gradient in zip(layers, gradients, strict=True)
        ),
    )


def _rms(tensor: Tensor) -> float:
    # In float32, because squares leave float16's range.
    return float(tensor.float().square().mean().sqrt())
