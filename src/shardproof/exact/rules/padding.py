"""The backward of pads and folds: elements that were copied out are added up again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardproof.exact.rules.registry import moves, sums

if TYPE_CHECKING:
    from torch import Tensor

moves("reflection_pad3d.default", "replication_pad3d.default")


def _copies(result: Tensor, grad: Tensor, *_args: Any, **_kwargs: Any) -> int:
    return max(1, grad.numel() // max(result.shape[0] * result.shape[1] if result.ndim > 2 else 1, 1))


sums(
    *("reflection_pad1d_backward.default", "reflection_pad2d_backward.default", "reflection_pad3d_backward.default"),
    *("replication_pad1d_backward.default", "replication_pad2d_backward.default", "replication_pad3d_backward.default"),
    *("unfold_backward.default", "col2im.default", "trace.default"),
    count=_copies,
)
