"""Replicated parameters that each rank uses on its own part of the data: their gradients are summed over the ranks.

A norm under sequence parallelism sees this rank's tokens, a norm of each head this rank's heads; so does a bias added
after a reduce-scatter. Forward and input gradient need no other rank. The parameter's gradient is a sum over all tokens
(heads), of which each rank has a part. Source: Korthikanti et al. (arXiv:2205.05198), section 4.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from shardproof.parallel.collectives import all_reduce
from shardproof.parallel.sharding import replicated, set_sharding, sharding_of
from shardproof.parallel.traffic import Traffic

if TYPE_CHECKING:
    from torch import Tensor, nn

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
        if own and torch.is_grad_enabled():
            entered = _SumGradients.apply(self.axis, self.start, *own.values())  # type: ignore[no-untyped-call] # torch's
            # An entry of __dict__ is found before the parameter of that name, which stays where it is.
            module.__dict__.update(zip(own, entered, strict=True))


class _SumGradients(torch.autograd.Function):
    """Identity forward; backward one all-reduce of all gradients, each from index `start` of its dim 0 on."""

    @staticmethod
    def forward(ctx: Any, axis: Axis, start: int, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.axis, ctx.start = axis, start
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        partial = [gradient[ctx.start :] for gradient in gradients]
        total = all_reduce(torch.cat([part.reshape(-1) for part in partial]), ctx.axis)
        sums = zip(gradients, partial, total.split([part.numel() for part in partial]), strict=True)
        return None, None, *(torch.cat([g[: ctx.start], summed.view(part.shape)]) for g, part, summed in sums)


def _leave(module: nn.Module, _inputs: Any, _output: Any) -> None:
    for name, _ in module.named_parameters(recurse=False):
        module.__dict__.pop(name, None)
