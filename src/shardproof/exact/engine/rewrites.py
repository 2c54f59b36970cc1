"""Functions that are replaced above autograd, because PyTorch's own form loses an identity that exact arithmetic keeps.

Dropout: see dropout.py.

Sampling at positions (`F.grid_sample`): PyTorch's own decomposition, which has a backward of ops that have rules.

Attention: one of PyTorch's kernels multiplies queries and keys each by the square root of the scale, which has no exact
residue in general. Here the scale is multiplied into the queries, and each kernel is given a scale of one.

kl_div(x, y): as y log(y / exp(x)), one logarithm, which is that of y (log(y) - x) where x is a logarithm too.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.overrides import TorchFunctionMode

from shardproof.exact.engine.dropout import ATTENTION, call_with_masks, may_be_masked, oracle_of
from shardproof.exact.engine.function_bodies import BACKWARDS, body_of

if TYPE_CHECKING:
    from collections.abc import Callable

_IMAGES = 4  # dims: [N, C, H, W]


def _attention(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    scale = kwargs.get("scale")
    factor = 1 / sqrt(query.shape[-1]) if scale is None else scale
    return ATTENTION(query * factor, *args, **{**kwargs, "scale": 1.0})


def _divergence(x: Tensor, target: Tensor, reduction: int = 1, *, log_target: bool = False) -> Tensor | None:
    if log_target:
        return None
    found = torch.xlogy(target, target * torch.exp(-x))  # 0 where the target is
    return (found, found.mean(), found.sum())[reduction]


class Rewrites(TorchFunctionMode):
    """Calls functions in the forms of this file; a mode of its own for what a checkpoint computes again.

    Args:
        oracles: dropout is replaced, its mask an oracle of each element.
    """

    def __init__(self, *, oracles: bool) -> None:
        super().__init__()
        self._oracles = oracles

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.call(func, args, kwargs or {}, inside=self)

    def call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, inside: TorchFunctionMode
    ) -> Any:
        """The function's result; what is called in its own body goes through the mode `inside`."""
        body = body_of(func)
        if body is not None:
            with self if func in BACKWARDS else inside:
                return body(*args, **kwargs)
        if self._oracles:
            dropped = call_with_masks(func, args, kwargs, oracle_of, inside=inside)
            if dropped is not None:
                return dropped
        rewrite = _REWRITES.get(func)
        otherwise = None if rewrite is None else rewrite(*args, **kwargs)
        return func(*args, **kwargs) if otherwise is None else otherwise


def may_be_rewritten(func: Callable[..., Any]) -> bool:
    """Whether `Rewrites` may call a function in another form, or opens it."""
    return body_of(func) is not None or may_be_masked(func) or func in _REWRITES


def _rewrite_attention(*args: Any, **kwargs: Any) -> Tensor | None:
    return None if kwargs.get("scale") == 1.0 else _attention(*args, **kwargs)


def _rewrite_sampler(*args: Any, **kwargs: Any) -> Tensor | None:
    if args[0].ndim != _IMAGES:
        return None
    sampled: Tensor = decomposition_table[torch.ops.aten.grid_sampler_2d.default](*args, **kwargs)
    return sampled


# The function's result where it is replaced; None where it is to run as it is.
_REWRITES: Final[dict[Any, Callable[..., Tensor | None]]] = {
    ATTENTION: _rewrite_attention,
    torch.kl_div: _divergence,
    torch.grid_sampler: _rewrite_sampler,
}
