"""The step by hand on one device, at any depth (sections 3.1.1, 3.2.1 and 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.byhand.functions import (
    linear_backward_bias,
    linear_backward_input,
    linear_backward_weight,
    linear_forward,
)
from shardproof.byhand.model import Layer
from shardproof.byhand.step import Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from shardproof.byhand.data import Batch
    from shardproof.byhand.functions import Activation, Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What the backward pass needs of the forward pass.

    Layer l computes z[l] = h[l] W^T + b from h[l]; h[0] is the batch, h[l + 1] = activation(z[l]). The last layer's z
    is `out`.
    """

    h: tuple[Tensor, ...]
    z: tuple[Tensor, ...]
    out: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Backward:
    """What the backward pass computes: dW [O, I] and db [O] of each layer, and dh [B, O] of each hidden layer."""

    gradients: tuple[Layer, ...]
    dh: tuple[Tensor, ...]


def forward(layers: Sequence[Layer], x: Tensor, activation: Activation) -> Forward:
    """Compute the output layer by layer; its backward is `backward`."""
    h, z = [x], []
    for layer in layers[:-1]:
        z.append(linear_forward(h[-1], layer.W, layer.b))  # [B, O]
        h.append(activation.forward(z[-1]))  # [B, O]
    out = linear_forward(h[-1], layers[-1].W, layers[-1].b)  # [B, O], and no activation
    return Forward(h=tuple(h), z=tuple(z), out=out)


def backward(layers: Sequence[Layer], saved: Forward, dout: Tensor, activation: Activation) -> Backward:
    """Compute every dW and db from dout, from the last layer to the first; backward of `forward`.

    Returns:
        Its values in the order of the layers.
    """
    gradients, dh = [], []
    dz = dout  # [B, O] of the last layer, which no activation follows
    for l in reversed(range(len(layers))):
        gradients.append(Layer(W=linear_backward_weight(dz, saved.h[l]), b=linear_backward_bias(dz)))  # [O, I], [O]
        if l > 0:  # the batch needs no gradient
            dh.append(linear_backward_input(dz, layers[l].W))  # [B, I]
            dz = activation.backward(dh[-1], saved.z[l - 1])  # [B, I], which is [B, O] of the layer below
    return Backward(gradients=tuple(reversed(gradients)), dh=tuple(reversed(dh)))


def update(layers: Sequence[Layer], gradients: Sequence[Layer], lr: float) -> tuple[Layer, ...]:
    """Take one step of gradient descent, W - lr dW and b - lr db, on full parameters or on slices."""
    return tuple(
        Layer(W=layer.W - lr * gradient.W, b=layer.b - lr * gradient.b)
        for layer, gradient in zip(layers, gradients, strict=True)
    )


def take_step(layers: Sequence[Layer], batch: Batch, *, activation: Activation, loss: Loss, lr: float) -> Step:
    """Forward, backward and update."""
    saved = forward(layers, batch.x, activation)
    dout = loss.backward(saved.out, batch.y)
    found = backward(layers, saved, dout, activation)
    return Step(
        z=saved.z,
        out=saved.out,
        loss=loss.forward(saved.out, batch.y),
        gradients=found.gradients,
        updated=update(layers, found.gradients, lr),
        h=saved.h[1:],
        dh=found.dh,
    )
