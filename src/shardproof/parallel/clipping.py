"""Gradient clipping by the norm of the full model: one coefficient, the same on all ranks.

Each rank takes the norm of the pieces that it counts (`Sharding.counted_pieces`); the norm of the ranks' norms is the
model's. So each element of the full model counts once: of replicated parameters, replicated KV heads and tied weights
too. Padding does not count.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import TYPE_CHECKING

import torch

from shardproof.errors import CannotRunError
from shardproof.parallel.collectives import all_reduce, all_reduce_max
from shardproof.parallel.sharding import counted_parts, require_sharding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from shardproof.parallel.axis import Axis


def clip_gradients(
    parameters: Iterable[Tensor],
    max_norm: float,
    axis: Axis,
    *,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)), in place, as `torch.nn.utils.clip_grad_norm_` does.

    One all-reduce of one number. With data-parallel ranks, average the gradients over them first.

    Args:
        parameters: all of the model's, the same ones on every rank.
        max_norm: the largest norm afterwards.
        axis: along which the parameters are sharded.
        norm_type: p of the p-norm, above 0; `float("inf")` is the largest magnitude.
        error_if_nonfinite: whether to raise where the norm is NaN or infinite.

    Returns:
        The norm before clipping, a scalar, bit for bit the same on all ranks.

    Raises:
        CannotRunError: `max_norm` or `norm_type` is not above 0, a parameter carries no sharding or is a DTensor, or
            the norm is not finite and `error_if_nonfinite` is set.
    """
    parameters = _with_gradients(parameters)
    if not max_norm > 0:
        raise CannotRunError(f"max_norm is {max_norm}; give a number above 0")
    norm = gradient_norm(parameters, axis, norm_type=norm_type)
    if error_if_nonfinite and not torch.isfinite(norm):
        raise CannotRunError(
            f"the gradients' norm is {norm.item()}: nothing was clipped; look for the first NaN or inf"
        )
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor], axis: Axis, *, norm_type: float = 2.0) -> Tensor:
    """The p-norm of all gradients of the full model, a scalar, bit for bit the same on all ranks.

    It is computed in float32, or in the gradients' dtype if that is wider. See `clip_gradients`.
    """
    if not norm_type > 0:
        raise CannotRunError(f"norm_type is {norm_type}; give a number above 0, or inf")
    parameters = _with_gradients(parameters)
    # From all gradients, not only those that this rank counts: ranks must exchange norms of one dtype.
    dtype = reduce(torch.promote_types, (one.dtype for one in _gradients(parameters)), torch.float32)
    device = parameters[0].device if parameters else None
    norms = [
        torch.linalg.vector_norm(part, norm_type, dtype=dtype)
        for parameter, gradient in zip(parameters, _gradients(parameters), strict=True)
        for part in counted_parts(gradient, require_sharding(parameter, axis))
    ]
    if not norms:
        norms = [torch.zeros((), dtype=dtype, device=device)]
    own = torch.linalg.vector_norm(torch.stack(norms), norm_type)
    if axis.size == 1:
        alone: Tensor = own
        return alone
    if math.isinf(norm_type):
        return all_reduce_max(own, axis)
    return all_reduce(own.pow(norm_type), axis).pow(1 / norm_type)


def _with_gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The parameters that have a gradient, each once, though a tied one may be given twice."""
    once = {id(parameter): parameter for parameter in parameters}
    return [parameter for parameter in once.values() if parameter.grad is not None]


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
