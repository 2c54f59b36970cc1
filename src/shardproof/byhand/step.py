"""The values of one training step that are compared, whichever way they are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.byhand.model import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The hidden layers' z [B, O], the output [B, O], the loss, each layer's gradients and its updated parameters."""

    z: tuple[Tensor, ...]
    out: Tensor
    loss: Tensor
    gradients: tuple[Layer, ...]
    updated: tuple[Layer, ...]
