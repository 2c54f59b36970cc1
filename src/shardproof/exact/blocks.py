"""Cache-sized blocks: how several passes over a large tensor become one pass over memory.

A product modulo p takes four elementwise passes (multiply, divide, round, subtract). Over a tensor that does not fit
the cache each would wait for memory, and each new temporary would be paged in; over a block they stay in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

# Half a megabyte of float64 a thread: operand, result and quotient share a second-level cache of 1 to 2 MiB. PyTorch
# gives a thread no less than 2**15 elements, so that all of them work on one block.
_ELEMENTS_A_THREAD: Final = 1 << 16


def block_size() -> int:
    """How many elements a block has."""
    return _ELEMENTS_A_THREAD * torch.get_num_threads()


def is_large(tensor: Tensor) -> bool:
    """Whether a tensor is worth cutting into blocks: more than one block, in a CPU's memory."""
    return tensor.device.type == "cpu" and tensor.numel() > block_size()


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the tensors, cut alike; together they cover every element once.

    Args:
        tensors: of one shape (expand them to it); cut in the order in which the first one lies in memory.
    """
    first = tensors[0]
    if not is_large(first):
        yield tensors
        return
    order = sorted(range(first.ndim), key=first.stride, reverse=True)
    permuted = [tensor.permute(order) for tensor in tensors]
    if all(tensor.is_contiguous() for tensor in permuted):
        permuted = [tensor.view(-1) for tensor in permuted]
    yield from _cut(permuted)


def _cut(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    row = tensors[0].numel() // max(len(tensors[0]), 1)
    if row > block_size():
        for rows in zip(*(tensor.unbind(0) for tensor in tensors), strict=True):
            yield from _cut(rows)
    else:
        height = block_size() // max(row, 1)
        yield from zip(*(tensor.split(height) for tensor in tensors), strict=True)
