"""A full tensor put together from the pieces of ranks, and two of them read side by side, block by block."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from shardproof.checkpoints.pieces import TensorPiece
from shardproof.comparison import cut_blocks
from shardproof.comparison.streaming import block_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardproof.checkpoints.pieces import Piece
    from shardproof.comparison import Block
    from shardproof.comparison.blocks import BlockIndex

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A box of a piece, and where it lies in the full tensor: `full[start : start + sizes] = piece[at : at + sizes]`.

    `holder` says in words which rank has the piece; "" where there is one alone.
    """

    piece: Piece
    holder: str
    start: tuple[int, ...]
    sizes: tuple[int, ...]
    at: tuple[int, ...]

    def narrow(self, dim: int, first: int, last: int) -> Placement | None:
        """The part within `first` to `last` of a dim of the full tensor, counted from there; None if nothing is."""
        low, high = max(first, self.start[dim]), min(last, self.start[dim] + self.sizes[dim])
        if low >= high:
            return None
        return replace(
            self,
            start=_put(self.start, dim, low - first),
            sizes=_put(self.sizes, dim, high - low),
            at=_put(self.at, dim, self.at[dim] + low - self.start[dim]),
        )

    def read_into(self, out: torch.Tensor, leading: tuple[int, ...], first: int, scratch: Scratch) -> None:
        """Fill what is this box's of `out` [k, *inner], which is the full tensor's `[*leading, first : first + k]`."""
        d = len(leading)
        if any(not s <= i < s + n for i, s, n in zip(leading, self.start, self.sizes, strict=False)):
            return
        low, high = max(first, self.start[d]), min(first + out.shape[0], self.start[d] + self.sizes[d])
        if low >= high:
            return
        shift = tuple(a - s for a, s in zip(self.at, self.start, strict=True))
        at = tuple(i + s for i, s in zip(leading, shift, strict=False))
        target = out[low - first : high - first]
        for dim in range(d + 1, len(self.sizes)):
            target = target.narrow(dim - d, self.start[dim], self.sizes[dim])
        inner = self.piece.shape[d + 1 :]
        if inner == self.sizes[d + 1 :] and target.is_contiguous():
            self.piece.read_into(target, at, low + shift[d])
            return
        rows = scratch.read(self.piece, at, low + shift[d], high - low)
        for dim in range(d + 1, len(self.sizes)):
            rows = rows.narrow(dim - d, self.at[dim], self.sizes[dim])
        target.copy_(rows)


@dataclass(slots=True)
class Scratch:
    """A buffer that is used again and again, and which rows of which piece it holds."""

    buffer: torch.Tensor | None = None
    held: tuple[object, ...] = ()

    def take(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """[count] of any values."""
        need = count * dtype.itemsize
        if self.buffer is None or self.buffer.numel() < need:
            self.buffer = torch.empty(need, dtype=torch.uint8)
        return self.buffer[:need].view(dtype)

    def read(self, piece: Piece, leading: tuple[int, ...], first: int, count: int) -> torch.Tensor:
        """`piece[*leading, first : first + count]`; once, where sections of the same rows are asked for in turn."""
        shape = (count, *piece.shape[len(leading) + 1 :])
        rows = self.take(math.prod(shape), piece.dtype).view(shape)
        key = (id(piece), leading, first, count)
        if self.held != key:
            self.held = ()
            piece.read_into(rows, leading, first)
            self.held = key
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class FullTensor:
    """A full tensor as the placements of pieces; together they fill it, but for what is `missing`.

    Attributes:
        shape: of the full tensor.
        dtype: of every piece.
        placements: boxes that do not overlap.
        copies: further boxes, of ranks that hold the same part as another; they should hold the same values.
        missing: in words, the ranks whose pieces are not there.
        how: in words, how the ranks' pieces make the full tensor; "" where one rank has it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    placements: tuple[Placement, ...]
    copies: tuple[Placement, ...] = ()
    missing: tuple[str, ...] = ()
    how: str = ""

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    def read_into(
        self, out: torch.Tensor, leading: tuple[int, ...], first: int, scratch: Scratch | None = None
    ) -> None:
        """As of a `Piece`. What is missing is zero."""
        scratch = scratch or Scratch()
        if self.missing:
            out.zero_()
        if not self.shape and self.placements:
            self.placements[0].piece.read_into(out, (), 0)
            return
        for placement in self.placements:
            placement.read_into(out, leading, first, scratch)

    def read(self, index: BlockIndex, out: torch.Tensor, scratch: Scratch) -> torch.Tensor:
        """A block into `out`, a buffer of its dtype; [n]."""
        leading, first, last = _split_index(index)
        if not self.shape:
            block = out[:1]
            self.read_into(block, (), 0, scratch)
            return block
        inner = self.shape[len(leading) + 1 :]
        block = out[: (last - first) * math.prod(inner)]
        self.read_into(block.view(last - first, *inner), leading, first, scratch)
        return block

    def narrow(self, dim: int, first: int, last: int) -> FullTensor:
        """The part within `first` to `last` of a dim."""
        placements, copies = (
            tuple(part for one in boxes if (part := one.narrow(dim, first, last)) is not None)
            for boxes in (self.placements, self.copies)
        )
        shape = _put(self.shape, dim, last - first)
        return replace(self, shape=shape, placements=placements, copies=copies)

    def box(self, placement: Placement) -> FullTensor:
        """The part in which a placement lies."""
        part = self
        for dim, (start, size) in enumerate(zip(placement.start, placement.sizes, strict=True)):
            part = part.narrow(dim, start, start + size)
        return part


def full_of(piece: Piece) -> FullTensor:
    """A piece that is the full tensor."""
    zeros = (0,) * len(piece.shape)
    whole = Placement(piece=piece, holder="", start=zeros, sizes=piece.shape, at=zeros)
    return FullTensor(shape=piece.shape, dtype=piece.dtype, placements=(whole,))


def tensor_of(full: FullTensor) -> torch.Tensor | None:
    """The tensor in memory that a full tensor is; None where it has to be read or put together."""
    if len(full.placements) != 1 or full.missing:
        return None
    (placement,) = full.placements
    whole = placement.sizes == placement.piece.shape
    return placement.piece.tensor if whole and isinstance(placement.piece, TensorPiece) else None


def full_of_placement(placement: Placement) -> FullTensor:
    """What a rank holds, for itself."""
    moved = replace(placement, start=(0,) * len(placement.start))
    return FullTensor(shape=placement.sizes, dtype=placement.piece.dtype, placements=(moved,))


@dataclass(slots=True, kw_only=True)
class FullPair:
    """Two full tensors of one shape as `Blocks`, both in `dtype`; memory is that of two blocks and what they need.

    `most` is the largest number of elements of a block, where what is done with it needs much memory.
    """

    actual: FullTensor
    expected: FullTensor
    dtype: torch.dtype
    most: int | None = None
    device: torch.device = CPU
    scratch: tuple[Scratch, Scratch] = field(default_factory=lambda: (Scratch(), Scratch()))
    buffers: tuple[Scratch, Scratch] = field(default_factory=lambda: (Scratch(), Scratch()))

    @property
    def count(self) -> int:
        return self.expected.count

    @property
    def size(self) -> int:
        size = max(1, block_bytes(self.dtype, self.device) // self.dtype.itemsize)
        return size if self.most is None else min(size, self.most)

    def blocks(self) -> Iterator[Block]:
        return cut_blocks(self.expected.shape, self.size)

    def read(self, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        actual, expected = (
            side.read(block.index, buffer.take(min(self.size, self.count), side.dtype), scratch).to(self.dtype)
            for side, buffer, scratch in zip((self.actual, self.expected), self.buffers, self.scratch, strict=True)
        )
        return actual, expected


def read_blocks(full: FullTensor, dtype: torch.dtype, size: int) -> Iterator[tuple[Block, torch.Tensor]]:
    """Every block of a full tensor with its values, [n] in `dtype`; valid until the next."""
    scratch, buffer = Scratch(), Scratch()
    for block in cut_blocks(full.shape, size):
        yield block, full.read(block.index, buffer.take(min(size, full.count), full.dtype), scratch).to(dtype)


def bits_equal(actual: FullTensor, expected: FullTensor) -> bool:
    """Whether two full tensors of one shape and dtype have the same bits; ends at the first block that differs."""
    pair = FullPair(actual=actual, expected=expected, dtype=expected.dtype)
    for block in pair.blocks():
        a, e = pair.read(block)
        if not torch.equal(a.view(torch.uint8), e.view(torch.uint8)):
            return False
    return True


def _split_index(index: BlockIndex) -> tuple[tuple[int, ...], int, int]:
    if not index:
        return (), 0, 1
    *leading, last = index
    assert isinstance(last, slice)
    return tuple(i for i in leading if isinstance(i, int)), last.start, last.stop


def _put(values: tuple[int, ...], dim: int, value: int) -> tuple[int, ...]:
    return (*values[:dim], value, *values[dim + 1 :])
