"""Samples of a tensor's values: a matrix of few cells, in which what differs is never left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from shardproof.proving.evidence import MOST_CELLS, Sample

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.proving.judging.alignment import ActualExpected


def take_sample(rank: int, held: ActualExpected, differs: Tensor) -> Sample:
    """A rank's values beside the reference's, in blocks where there are more than `MOST_CELLS` rows or columns.

    Args:
        rank: whose.
        held: what the rank holds and should hold, of one shape.
        differs: booleans of that shape.
    """
    expected, actual, marks = (_as_matrix(one) for one in (held.expected.double(), held.actual.double(), differs))
    chosen = _farthest_of_block(expected, actual, marks)
    return Sample(
        rank=rank,
        shape=tuple(held.actual.shape),
        expected=_blocks(expected).gather(2, chosen).squeeze(2),
        actual=_blocks(actual).gather(2, chosen).squeeze(2),
        differs=_blocks(marks).any(2),
    )


def _as_matrix(tensor: Tensor) -> Tensor:
    """[rows, columns]: the last dim stays; a long vector is wrapped, filled up by repeating its last element."""
    if tensor.ndim > 1:
        return tensor.reshape(-1, tensor.shape[-1])
    flat = tensor.reshape(-1)
    if len(flat) <= MOST_CELLS:
        return flat.view(1, -1)
    missing = -len(flat) % MOST_CELLS
    return torch.cat([flat, flat[-1:].expand(missing)]).view(-1, MOST_CELLS)


def _blocks(matrix: Tensor) -> Tensor:
    """[rows of cells, columns of cells, elements of a block]; the last block is filled by repeating its elements."""
    at = [_starts(length) for length in matrix.shape]
    return matrix[at[0]][:, :, at[1]].permute(0, 2, 1, 3).flatten(2)


def _starts(length: int) -> Tensor:
    """[cells, block]: which indices of a dim each cell stands for."""
    block = max(1, -(-length // MOST_CELLS))
    return torch.arange(-(-length // block) * block).clamp_(max=max(length - 1, 0)).view(-1, block)


def _farthest_of_block(expected: Tensor, actual: Tensor, differs: Tensor) -> Tensor:
    """[rows, columns, 1]: of each block, the element that differs by most; a marked one before others."""
    distance = (actual - expected).abs().nan_to_num(nan=torch.inf)
    ranked = torch.where(differs, distance, -1.0)
    return _blocks(ranked).argmax(2, keepdim=True)
