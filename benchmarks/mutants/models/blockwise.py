"""Descent with a second moment that is kept by blocks where the parameter is large; its state is local tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from collections.abc import Iterable

BLOCK, LEAST, LEVELS = 4, 32, 8


class Blockwise(torch.optim.Optimizer):
    """A large parameter's moments are drawn to the mean of their block: not rounded, so that arithmetic is exact."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, by_shard: bool = False) -> None:
        super().__init__(parameters, {})
        self.by_shard = by_shard

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert closure is None
        for parameter in self.param_groups[0]["params"]:
            local, gradient = _local(parameter), _local(parameter.grad)
            state = self.state[parameter]
            if not state:
                state["moment"] = torch.zeros_like(gradient)
            moment = state["moment"] * 0.9 + gradient.square() * 0.1
            size = local.numel() if self.by_shard else parameter.numel()
            state["moment"] = _by_blocks(moment) if size >= LEAST else moment
            local.sub_(0.1 * gradient / (state["moment"].sqrt() + 1e-2))


def _by_blocks(x: Tensor) -> Tensor:
    """Halfway from each element to the mean of its block of neighbours."""
    blocks = x.reshape(-1, BLOCK)
    return ((blocks + blocks.mean(-1, keepdim=True)) / 2).reshape(x.shape)


def _local(x: Tensor) -> Tensor:
    return x.to_local() if isinstance(x, DTensor) else x
