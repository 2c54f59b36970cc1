"""Replicated parameters that each rank uses on its own part of the data: their gradients are summed over the ranks.

A norm under sequence parallelism sees this rank's tokens, a norm of each head this rank's heads; so does a bias added
after a reduce-scatter. Forward and input gradient need no other rank. The parameter's gradient is a sum over all tokens
(heads), of which each rank has a part. Source: Korthikanti et al. (arXiv:2205.05198), section 4.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from shardproof.parallel.collectives import sum_gradients
from shardproof.parallel.sharding import replicated, set_sharding, sharding_of
from shardproof.parallel.traffic import Traffic

if TYPE_CHECKING:
    from torch import nn

    from shardproof.parallel.axis import Axis


# Of one forward and backward of such a module.
REPLICATED_IN_PARTS = Traffic(backward=("all_reduce",))


def sum_gradients_of_parameters(module: nn.Module, axis: Axis, *, start: int = 0) -> nn.Module:
    """Identity forward, all-reduce backward for the parameters of a module: one all-reduce for all of its own.

    Works for any module that reads its parameters as attributes of itself: LayerNorm, RMSNorm, a framework's own, a
    linear layer whose last rows are KV heads that several ranks hold. The module is changed in place; a copy of it is
    changed too.

    Args:
        module: its own parameters are the same on all ranks; those of its children are left alone.
        axis: the ranks, each of which uses them on its own part of the data.
        start: the first index of each parameter's dim 0 that is the same on all ranks.

    Returns:
        The module.
    """
    for parameter in module.parameters(recurse=False):
        if sharding_of(parameter) is None:
            set_sharding(parameter, replicated(parameter.shape, rank=axis.rank, size=axis.size))
    if axis.size > 1:
        module.register_forward_pre_hook(_Enter(axis=axis, start=start))
        module.register_forward_hook(_leave, always_call=True)
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class _Enter:
    """For the time of one forward, the module's attributes are its parameters behind the collective.

    Not hooks on the parameters: those would be lost in a copy of the module, without a word.
    """

    axis: Axis
    start: int

    def __call__(self, module: nn.Module, _inputs: Any) -> None:
        own = {name: p for name, p in module.named_parameters(recurse=False) if p.requires_grad}
        if not (own and torch.is_grad_enabled()):
            return
        alike = [p[self.start :] if self.start else p for p in own.values()]
        flat = sum_gradients(torch.cat([p.reshape(-1) for p in alike]), self.axis)
        parts = flat.split([p.numel() for p in alike])
        for (name, parameter), part, like in zip(own.items(), parts, alike, strict=True):
            entered = part.view(like.shape)
            # An entry of __dict__ is found before the parameter of that name, which stays where it is.
            module.__dict__[name] = torch.cat([parameter[: self.start], entered]) if self.start else entered


def _leave(module: nn.Module, _inputs: Any, _output: Any) -> None:
    for name, _ in module.named_parameters(recurse=False):
        module.__dict__.pop(name, None)
