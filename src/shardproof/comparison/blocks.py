"""Reads two tensors of one shape in contiguous blocks, in row-major order, without copying either as a whole."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

BlockIndex = tuple[int | slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Elements that are contiguous in row-major order.

    Attributes:
        start: the position of the first in the flattened tensor.
        index: selects the block from the tensors, or from the flattened ones if both are contiguous.
    """

    start: int
    index: BlockIndex


class Blocks(Protocol):
    """Two tensors of one shape and dtype that are read block by block: in memory, or from files.

    `size` is the largest number of elements of a block, `count` that of all blocks together.
    """

    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def count(self) -> int: ...
    @property
    def size(self) -> int: ...

    def blocks(self) -> Iterator[Block]:
        """All blocks, in row-major order."""

    def read(self, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        """Both sides of a block, each contiguous and [n]; valid until the next `read`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockReader:
    """Returns [n] blocks of both tensors on one device: views where possible, else copies in two reused buffers."""

    actual: torch.Tensor
    expected: torch.Tensor
    size: int
    buffers: tuple[torch.Tensor, torch.Tensor] | None

    @property
    def dtype(self) -> torch.dtype:
        return self.actual.dtype

    @property
    def device(self) -> torch.device:
        return self.actual.device

    @property
    def count(self) -> int:
        return self.actual.numel()

    def blocks(self) -> Iterator[Block]:
        return cut_blocks(tuple(self.actual.shape), self.size)

    def read(self, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        a, e = self.actual[block.index], self.expected[block.index]
        if self.buffers is None:
            return a, e
        n = a.numel()
        into_a, into_e = self.buffers[0][:n], self.buffers[1][:n]
        into_a.view(a.shape).copy_(a)
        into_e.view(e.shape).copy_(e)
        return into_a, into_e


def open_blocks(actual: torch.Tensor, expected: torch.Tensor, size: int) -> BlockReader:
    """A reader of blocks of at most `size` elements, on the device of `actual`."""
    views = actual.device == expected.device and all(
        t.is_contiguous() and not t.is_conj() and not t.is_neg() for t in (actual, expected)
    )
    if views:
        return BlockReader(actual=actual.view(-1), expected=expected.view(-1), size=size, buffers=None)
    room = min(size, actual.numel())
    buffers = (
        torch.empty(room, dtype=actual.dtype, device=actual.device),
        torch.empty(room, dtype=actual.dtype, device=actual.device),
    )
    return BlockReader(actual=actual, expected=expected, size=size, buffers=buffers)


def cut_blocks(shape: tuple[int, ...], size: int) -> Iterator[Block]:
    """Blocks of at most `size` elements of a tensor of that shape, in row-major order.

    Cut along the first dimension whose inner dimensions together fit in a block.
    """
    if not shape:
        yield Block(start=0, index=())
        return
    dim = next(d for d in range(len(shape)) if math.prod(shape[d + 1 :]) <= size)
    inner = math.prod(shape[dim + 1 :])
    step = max(1, size // max(1, inner))
    start = 0
    for leading in itertools.product(*(range(n) for n in shape[:dim])):
        for first in range(0, shape[dim], step):
            last = min(first + step, shape[dim])
            yield Block(start=start, index=(*leading, slice(first, last)))
            start += (last - first) * inner
