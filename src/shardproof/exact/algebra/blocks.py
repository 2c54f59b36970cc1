"""Cache-sized blocks: how several passes over a large tensor become one pass over memory.

A product modulo p takes four elementwise passes (multiply, divide, round, subtract). Over a tensor that does not fit
the cache each would wait for memory, and each new temporary would be paged in; over a block they stay in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

# Half a megabyte of float64 a thread: operand, result and quotient share a second-level cache of 1 to 2 MiB. PyTorch
# gives a thread no less than 2**15 elements, so that all of them work on one block.
_ELEMENTS_A_THREAD: Final = 1 << 16


def block_size() -> int:
    """How many elements a block has."""
    return _ELEMENTS_A_THREAD * torch.get_num_threads()


def is_large(numel: int, device: torch.device) -> bool:
    """Whether a tensor is worth cutting into blocks: more than one block, in a CPU's memory."""
    return device.type == "cpu" and numel > block_size()


def blocks(first: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the tensors, cut alike; together they cover every element of the first once.

    Args:
        first: any shape; blocks follow the order in which it lies in memory.
        others: of the first one's shape, or broadcast to it: their blocks then broadcast as well.
    """
    if not is_large(first.numel(), first.device):
        yield first, *others
        return
    order = sorted(range(first.ndim), key=first.stride, reverse=True)
    tensors = [x.view([1] * (first.ndim - x.ndim) + list(x.shape)).permute(order) for x in (first, *others)]
    if all(x.is_contiguous() and (x.numel() == first.numel() or x.numel() == 1) for x in tensors):
        tensors = [x.view(-1) for x in tensors]
    yield from _cut(tensors, 0)


def row_blocks(dim: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of large tensors of one shape, cut alike along all dims but one, which comes last in the views."""
    yield from _cut([x.movedim(dim, -1) for x in tensors], 1)


def _cut(tensors: list[Tensor], whole: int) -> Iterator[tuple[Tensor, ...]]:
    """Cut along the first dims, never along the last `whole` ones."""
    if tensors[0].ndim <= whole:
        yield tuple(tensors)
        return
    length = len(tensors[0])
    row = tensors[0].numel() // length
    if row > block_size() and tensors[0].ndim > whole + 1:
        for i in range(length):
            yield from _cut([x[i] if len(x) == length else x[0] for x in tensors], whole)
        return
    height = max(block_size() // row, 1)
    for start in range(0, length, height):
        yield tuple(x[start : start + height] if len(x) == length else x for x in tensors)
