"""Dropout in exact arithmetic: x * r(x), r an oracle of the element's own residue, the same in the backward.

No random generator is used. The same value has the same mask on every rank and in every process: a step with dropout
is the same function of its inputs, sharded or not. The mask is any residue instead of 0 or 1/(1-p): a wrong element
would go unseen where the mask is 0. Each probability has an oracle of its own.

Dropout of whole channels has one mask a channel, the oracle of a weighted mean of the channel's elements.

Dropout is replaced above autograd, where its operand is known; so is attention that drops weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.overrides import TorchFunctionMode

    from shardproof.exact.algebra.residue import Arithmetic, Residue

ATTENTION: Final = F.scaled_dot_product_attention  # PyTorch's context parallelism puts another into its module

torch.library.define("shardproof::dropout_mask", "(Tensor x, float p) -> Tensor")
torch.library.impl("shardproof::dropout_mask", "CompositeExplicitAutograd", lambda x, _p: torch.ones_like(x))


@formula("shardproof::dropout_mask.default", elementwise=True)
def dropout_mask(m: Arithmetic, x: Residue, p: float) -> Residue:
    """r(x), for this probability."""
    return x.oracle(f"dropout {m.constant(p)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropout:
    """One call of dropout that drops.

    Attributes:
        x: what it drops elements of, any shape; a DTensor too.
        p: the probability, 0 < p < 1.
        inplace: the result is written into x.
        channels: x[n, c], whatever dims follow, is dropped as a whole.
    """

    x: Tensor
    p: float
    inplace: bool
    channels: bool = False

    def mask(self, of_element: Callable[[Tensor], Tensor]) -> Tensor:
        """The mask, of x's shape, that is a function of each element or of each channel.

        Raises:
            ValueError: x is a DTensor that is a partial sum, or whose channels are split.
        """
        x = self.x.detach()
        if not self.channels or x.ndim < 3:
            return on_local(x, of_element)  # type: ignore[no-any-return]
        placements = getattr(x, "placements", ())
        if any(placement.is_shard() and placement.dim % x.ndim > 1 for placement in placements):
            msg = (
                f"dropout of whole channels that are split, {placements}: ranks would drop other channels; gather first"
            )
            raise ValueError(msg)
        return on_local(x, lambda x: of_element(_mean_of_channels(x)).expand_as(x))  # type: ignore[no-any-return]

    def times(self, mask: Tensor) -> Tensor:
        """The result for a mask of x's shape, which the gradient is multiplied by as well."""
        return self.x.mul_(mask) if self.inplace else self.x * mask


def oracle_of(call: Dropout) -> Tensor:
    """The mask in exact arithmetic.

    Raises:
        ValueError: x is a DTensor that is a partial sum, or whose channels are split.
    """
    return call.mask(lambda x: torch.ops.shardproof.dropout_mask(x, call.p))


def _mean_of_channels(x: Tensor) -> Tensor:
    """Of elements weighted by 1, 2, 3, ...: that of a normalized channel is not 0."""
    weights = torch.arange(1, x[0, 0].numel() + 1, device=x.device).view(x.shape[2:])
    dims = tuple(range(2, x.ndim))
    return (x * weights).sum(dims, keepdim=True) / int(weights.sum())


def on_local(x: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """An elementwise function of a tensor; of a DTensor, of its local one, laid out as it is."""
    placements = getattr(x, "placements", None)
    if placements is None:
        return function(x)
    if any(placement.is_partial() for placement in placements):
        msg = f"dropout of a partial sum, {placements}: each rank would drop other elements; reduce it first"
        raise ValueError(msg)
    local = function(x.to_local())
    return type(x).from_local(local, x.device_mesh, placements, run_check=False, shape=x.shape, stride=x.stride())


def find_dropout(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Dropout | None:
    """The call, if it is one of dropout that drops some elements and keeps some."""
    read = _DROPOUTS.get(func)
    call = None if read is None else read(*args, **kwargs)
    return call if call is not None and 0 < call.p < 1 and call.x.numel() else None


def _functional(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Dropout | None:  # noqa: A002
    return Dropout(x=input, p=p, inplace=inplace) if training else None


def _native(input: Tensor, p: float, train: bool) -> Dropout | None:  # noqa: A002
    return _functional(input, p, train)


def _native_inplace(input: Tensor, p: float, train: bool) -> Dropout | None:  # noqa: A002
    return _functional(input, p, train, inplace=True)


def _of_channels(input: Tensor, p: float, train: bool) -> Dropout | None:  # noqa: A002
    return Dropout(x=input, p=p, inplace=False, channels=True) if train else None


def _of_channels_inplace(input: Tensor, p: float, train: bool) -> Dropout | None:  # noqa: A002
    return Dropout(x=input, p=p, inplace=True, channels=True) if train else None


_DROPOUTS: Final[dict[Any, Callable[..., Dropout | None]]] = {
    F.dropout: _functional,
    torch.dropout: _native,
    torch.dropout_: _native_inplace,
    torch.feature_dropout: _of_channels,
    torch.feature_dropout_: _of_channels_inplace,
}


def may_be_masked(func: Callable[..., Any]) -> bool:
    """Whether `call_with_masks` may call a function otherwise."""
    return func in _DROPOUTS or func is ATTENTION


def call_with_masks(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    mask_of: Callable[[Dropout], Tensor],
    *,
    inside: TorchFunctionMode,
) -> Tensor | None:
    """The result of dropout, or of attention that drops weights, with masks made here; None of anything else.

    Attention is written out, and its parts are called in the mode `inside`.
    """
    if _drops_weights(func, args, kwargs):
        with inside:
            return written_out_attention(*args, **kwargs)
    dropout = find_dropout(func, args, kwargs)
    return None if dropout is None else dropout.times(mask_of(dropout))


def _drops_weights(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this is a call of attention that drops some of its weights."""
    if func is not ATTENTION:
        return False
    return bool(args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0))


def written_out_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """dropout(softmax(scale * q k^T + mask)) v, for `F.scaled_dot_product_attention` of these arguments.

    A query that the mask shows no key takes nothing, as in PyTorch's kernels.
    """
    if enable_gqa:
        key, value = (x.repeat_interleave(query.size(-3) // x.size(-3), -3) for x in (key, value))
    scores = (query * (1 / sqrt(query.size(-1)) if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    if attn_mask is None:
        return F.dropout(scores.softmax(-1), dropout_p) @ value
    if attn_mask.dtype == torch.bool:
        scores, sees = scores.masked_fill(~attn_mask, float("-inf")), attn_mask
    else:
        scores, sees = scores + attn_mask, attn_mask != float("-inf")
    empty = ~sees.any(-1, keepdim=True)
    weights = scores.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0)
    return F.dropout(weights, dropout_p) @ value
