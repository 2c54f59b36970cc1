"""Where a difference is that no known relation explains: on which ranks, at which indices, in how many elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.proving.cause import Cause
    from shardproof.proving.judging.difference import Difference

_MOST_INDICES = 16


def locate(difference: Difference) -> Cause:
    """The cause of a difference without a known relation: where it is.

    A dim is named if only some of its indices are concerned, on any rank that is wrong; if several dims are, the one
    with the smallest share. An index is one of what the rank holds.
    """
    off = {rank: difference.closeness.differs(one.actual, one.expected) for rank, one in difference.held.items()}
    wrong = {rank: mask for rank, mask in off.items() if bool(mask.any())}
    dim, indices = _narrowest(list(wrong.values()))
    return difference.cause(
        CauseKind.UNEXPLAINED,
        ranks=tuple(wrong),
        elements=sum(int(mask.sum()) for mask in wrong.values()),
        dim=dim,
        indices=indices,
    )


def _narrowest(masks: list[Tensor]) -> tuple[int | None, tuple[int, ...]]:
    """The dim of which the smallest share of indices is concerned, and these; none if all are, or too many to name."""
    found: list[tuple[float, int, tuple[int, ...]]] = []
    for dim in range(min((mask.ndim for mask in masks), default=0)):
        length = max(mask.shape[dim] for mask in masks)
        concerned = [mask.movedim(dim, 0).reshape(mask.shape[dim], -1).any(1).nonzero().flatten() for mask in masks]
        indices = tuple(torch.cat(concerned).unique().tolist())
        if len(indices) < length:
            found.append((len(indices) / length, dim, indices))
    if not found or len(min(found)[2]) > _MOST_INDICES:
        return None, ()
    return min(found)[1:]
