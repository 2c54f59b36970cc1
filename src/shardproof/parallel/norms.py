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
    from collections.abc import Sequence

    from torch import Tensor, nn

    from shardproof.parallel.axis import Axis


# The traffic of one forward and backward of such a module.
GRADIENT_SUM = Traffic(backward=("all_reduce",))


def sum_gradients_of_parameters(
    module: nn.Module, axis: Axis, *, start: int = 0, names: Sequence[str] = ("",)
) -> nn.Module:
    """Identity forward, all-reduce backward for a module's own parameters: one all-reduce for all of them.

    Works for any module that reads its parameters as attributes: LayerNorm, RMSNorm, a framework's own norm, a linear
    layer whose last rows are replicated KV heads. The module is changed in place; a copy of it behaves the same.

    Args:
        module: its own parameters are the same on all ranks; its children's are left alone.
        axis: the ranks, each of which uses the parameters on its own part of the data.
        start: the parameters are the same on all ranks from this index of dim 0 on.
        names: instead of the module's own parameters those of these children, which its forward calls, in one
            all-reduce: the norms of query and key heads of an attention.

    Returns:
        The module.
    """
    for name in names:
        for parameter in module.get_submodule(name).parameters(recurse=False):
            if sharding_of(parameter) is None:
                set_sharding(parameter, replicated(parameter.shape, rank=axis.rank, size=axis.size))
    if axis.size > 1:
        module.register_forward_pre_hook(_UseSummedParameters(axis=axis, start=start, names=tuple(names)))
        module.register_forward_hook(_UseOwnParameters(names=tuple(names)), always_call=True)
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class _UseSummedParameters:
    """Before a forward: shadow each parameter by the output of `_SumParameterGradients`.

    Hooks on the parameters themselves would not do: `copy.deepcopy` drops them silently.
    """

    axis: Axis
    start: int
    names: tuple[str, ...]

    def __call__(self, module: nn.Module, _inputs: Any) -> None:
        own = [
            (child, name, parameter)
            for child in map(module.get_submodule, self.names)
            for name, parameter in child.named_parameters(recurse=False)
            if parameter.requires_grad
        ]
        if own and torch.is_grad_enabled():
            parameters = (parameter for _, _, parameter in own)
            entered = _SumParameterGradients.apply(self.axis, self.start, *parameters)  # type: ignore[no-untyped-call] # torch's
            for (child, name, _), summed in zip(own, entered, strict=True):
                # Attribute lookup finds an entry of __dict__ before the parameter of that name, which stays registered.
                child.__dict__[name] = summed


@dataclass(frozen=True, slots=True, kw_only=True)
class _UseOwnParameters:
    """After a forward, also one that raised: remove the shadowing attributes."""

    names: tuple[str, ...]

    def __call__(self, module: nn.Module, _inputs: Any, _output: Any) -> None:
        for child in map(module.get_submodule, self.names):
            for name, _ in child.named_parameters(recurse=False):
                child.__dict__.pop(name, None)


class _SumParameterGradients(torch.autograd.Function):
    """Identity forward; one all-reduce of all gradients, from index `start` of dim 0 on, backward."""

    @staticmethod
    def forward(ctx: Any, axis: Axis, start: int, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.axis, ctx.start = axis, start
        return tuple(parameter.view_as(parameter) for parameter in parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if len(gradients) == 1 and ctx.start == 0:
            return None, None, all_reduce(gradients[0], ctx.axis)
        partial = [gradient[ctx.start :] for gradient in gradients]
        total = all_reduce(torch.cat([part.reshape(-1) for part in partial]), ctx.axis)
        sums = zip(gradients, partial, total.split([part.numel() for part in partial]), strict=True)
        # In memory of its own each: a gradient that is a view would keep the memory of all.
        return (
            None,
            None,
            *(torch.cat([g[: ctx.start], summed.view(part.shape).to(g.dtype)]) for g, part, summed in sums),
        )
