"""Replicated parameters that each rank uses on its own part of the data: their gradients are summed over the ranks.

Under sequence parallelism a norm (or a bias after a reduce-scatter) sees this rank's tokens; a norm of each head sees
this rank's heads. Forward and input gradient need no communication. The parameter's gradient is a sum over all tokens
(heads); each rank has the terms of its own. Source: Korthikanti et al. (arXiv:2205.05198), section 4.2.2.
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


# The traffic of one forward and backward of such a module.
GRADIENT_SUM = Traffic(backward=("all_reduce",))


def sum_gradients_of_parameters(module: nn.Module, axis: Axis, *, start: int = 0) -> nn.Module:
    """Identity forward, all-reduce backward for a module's own parameters: one all-reduce for all of them.

    Works for any module that reads its parameters as attributes: LayerNorm, RMSNorm, a framework's own norm, a linear
    layer whose last rows are replicated KV heads. The module is changed in place; a copy of it behaves the same.

    Args:
        module: its own parameters are the same on all ranks; its children's are left alone.
        axis: the ranks, each of which uses the parameters on its own part of the data.
        start: the parameters are the same on all ranks from this index of dim 0 on.

    Returns:
        The module.
    """
    for parameter in module.parameters(recurse=False):
        if sharding_of(parameter) is None:
            set_sharding(parameter, replicated(parameter.shape, rank=axis.rank, size=axis.size))
    if axis.size > 1:
        module.register_forward_pre_hook(_UseSummedParameters(axis=axis, start=start))
        module.register_forward_hook(_use_own_parameters, always_call=True)
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class _UseSummedParameters:
    """Before a forward: shadow each parameter by the output of `_SumParameterGradients`.

    Hooks on the parameters themselves would not do: `copy.deepcopy` drops them silently.
    """

    axis: Axis
    start: int

    def __call__(self, module: nn.Module, _inputs: Any) -> None:
        own = {name: p for name, p in module.named_parameters(recurse=False) if p.requires_grad}
        if own and torch.is_grad_enabled():
            entered = _SumParameterGradients.apply(self.axis, self.start, *own.values())  # type: ignore[no-untyped-call] # torch's
            # Attribute lookup finds an entry of __dict__ before the parameter of that name, which stays registered.
            module.__dict__.update(zip(own, entered, strict=True))


class _SumParameterGradients(torch.autograd.Function):
    """Identity forward; one all-reduce of all gradients, from index `start` of dim 0 on, backward."""

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


def _use_own_parameters(module: nn.Module, _inputs: Any, _output: Any) -> None:
    """After a forward, also one that raised: remove the shadowing attributes."""
    for name, _ in module.named_parameters(recurse=False):
        module.__dict__.pop(name, None)
