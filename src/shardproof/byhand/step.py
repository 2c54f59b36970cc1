"""The values of one training step that are compared, whichever way they are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.byhand.model import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The values of one step.

    Attributes:
        z: of the hidden layers, [B, O] each.
        out: [B, O].
        loss: a number.
        gradients: of each layer's parameters.
        updated: each layer's parameters after the step.
        h: what each hidden layer hands on, [B, O]; where layers are sharded it is not put together.
        dh: the gradients of h, likewise.
    """

    z: tuple[Tensor, ...]
    out: Tensor
    loss: Tensor
    gradients: tuple[Layer, ...]
    updated: tuple[Layer, ...]
    h: tuple[Tensor, ...] = ()
    dh: tuple[Tensor, ...] = ()
