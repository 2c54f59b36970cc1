"""Gradient clipping by the norm over the whole model, which no rank holds: one coefficient, the same on all ranks.

Each rank takes the norm of what it counts (`Sharding.counted_pieces`); the norm of these norms is the model's. So
replicas, KV heads that ranks share, tied weights and padding count as they do on one device.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import TYPE_CHECKING

import torch

from shardproof.errors import CannotRunError
from shardproof.parallel.collectives import all_reduce, all_reduce_max
from shardproof.parallel.sharding import counted_parts, noted_sharding

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

    One all-reduce of one number. Gradients are final: beside data-parallel ranks, already averaged over them.

    Args:
        parameters: of the whole model, the same ones on every rank.
        max_norm: of the gradients afterwards.
        axis: the ranks that the parameters are split over.
        norm_type: p of the p-norm, above 0; `float("inf")` is the largest magnitude.
        error_if_nonfinite: whether to raise where the norm is NaN or infinite.

    Returns:
        The norm before clipping, a number, the same on all ranks bit for bit.

    Raises:
        CannotRunError: `max_norm` or `norm_type` is no such number, a parameter does not say what it is of the full
            one or is a DTensor, or the norm is not finite and was to be.
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
    """The p-norm of all gradients of the whole model, a number, the same on all ranks bit for bit.

    Computed in float32, or in the gradients' dtype if that is wider. See `clip_gradients`.
    """
    if not norm_type > 0:
        raise CannotRunError(f"norm_type is {norm_type}; give a number above 0, or inf")
    parameters = _with_gradients(parameters)
    # Of all gradients, not only of those that this rank counts: the ranks exchange norms of one dtype.
    dtype = reduce(torch.promote_types, (one.dtype for one in _gradients(parameters)), torch.float32)
    device = parameters[0].device if parameters else None
    norms = [
        torch.linalg.vector_norm(part, norm_type, dtype=dtype)
        for parameter, gradient in zip(parameters, _gradients(parameters), strict=True)
        for part in counted_parts(gradient, noted_sharding(parameter, axis))
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
    """Those that have a gradient, each once: a list of all weights may hold a tied one twice."""
    once = {id(parameter): parameter for parameter in parameters}
    return [parameter for parameter in once.values() if parameter.grad is not None]


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
