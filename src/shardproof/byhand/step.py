"""What one training step computes, however it is computed: the values that are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.byhand.model import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The output [B, O], the loss, and layer by layer the gradients and the parameters after the update."""

    out: Tensor
    loss: Tensor
    gradients: tuple[Layer, ...]
    updated: tuple[Layer, ...]
