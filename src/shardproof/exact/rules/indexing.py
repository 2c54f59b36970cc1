"""Sums at places given by integers: the backward of every gather."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardproof.exact.rules.registry import sums

if TYPE_CHECKING:
    from torch import Tensor


def _embedding(_result: Tensor, _grad: Tensor, indices: Tensor, *_args: Any, **_kwargs: Any) -> int:
    return indices.numel()


def _indexed(_result: Tensor, _self: Tensor, dim: int, index: Tensor, *_args: Any, **_kwargs: Any) -> int:
    return 1 + index.numel()


def _scattered(_result: Tensor, _self: Tensor, dim: int, index: Tensor, *_args: Any, **_kwargs: Any) -> int:
    return 1 + (index.shape[dim] if index.ndim else 1)


def _put(_result: Tensor, _self: Tensor, indices: list[Tensor | None], values: Tensor, *_args: Any) -> int:
    return 1 + max((i.numel() for i in indices if i is not None), default=values.numel())


sums("embedding_dense_backward.default", count=_embedding)
sums("index_add.default", count=_indexed)
sums("scatter_add.default", count=_scattered)
sums("index_put.default", "_unsafe_index_put.default", count=_put)
