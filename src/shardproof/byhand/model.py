"""The model's parameters as plain values, initialised as `torch.nn.Linear` initialises them (sections 1.2 and 1.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A linear layer: W [O, I] and b [O]."""

    W: Tensor
    b: Tensor


def initialise_layers(widths: Sequence[int], *, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Layer, ...]:
    """Draw the layers in order, each uniform in (-1/sqrt(I), 1/sqrt(I)), weight before bias.

    The values are those of `torch.manual_seed(seed)` followed by one `torch.nn.Linear` after the other. They are drawn
    in float32 and then converted, so that a run in another dtype starts from the same model.

    Args:
        widths: features between the layers, input first: (6, 4, 2) makes W1 [4, 6] and W2 [2, 4].
        seed: of a new generator.
        dtype: of the parameters.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for in_features, out_features in pairwise(widths):
        # kaiming_uniform_(W, a=sqrt(5)) in nn.Linear, in the same order of operations, so that every bit is equal.
        W_bound = math.sqrt(3.0) * (math.sqrt(2.0 / (1 + math.sqrt(5) ** 2)) / math.sqrt(in_features))
        b_bound = 1 / math.sqrt(in_features)
        W = torch.empty(out_features, in_features).uniform_(-W_bound, W_bound, generator=generator)
        b = torch.empty(out_features).uniform_(-b_bound, b_bound, generator=generator)
        layers.append(Layer(W=W.to(dtype), b=b.to(dtype)))
    return tuple(layers)
