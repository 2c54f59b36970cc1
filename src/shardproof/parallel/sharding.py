"""`Sharding`: which part of the full parameter each rank holds.

One value describes all ranks: which pieces (contiguous intervals of one dim) each of them holds. It covers even and
uneven splits, fused projections ([Q; K; V], [gate; up]: a piece of each section), padded vocabularies (local rows that
are no row of the full tensor) and KV heads that several ranks replicate. A piece that several ranks hold is counted by
the first of them, so that gradient norms and checkpoints have every element once.

Clipping, saving and resharding use this value alone. It is set by the code that cut the parameter, and may be wrong;
the prover does not trust it, and finds layouts from the parameters' values.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from shardproof.errors import CannotRunError
from shardproof.worlds.communicator import nonnegative_dim, shard_range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shardproof.parallel.axis import Axis

# The parameter attribute that holds its sharding; read it with `sharding_of`.
_ATTRIBUTE = "shardproof_sharding"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """An interval of the split dim that a rank holds.

    Attributes:
        local: its first index in the rank's tensor.
        full: its first index in the full tensor.
        length: the number of indices, at least 1.
    """

    local: int
    full: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a fused dim that is split by itself: the queries of [Q; K; V], the gate of [gate; up].

    Attributes:
        length: the number of indices of the full dim.
        unit: the number of indices that are never cut apart (a head's width); it divides `length`.
        shared: where there are fewer units than ranks: True, several ranks replicate a unit (KV heads); False, some
            ranks hold none.
    """

    length: int
    unit: int = 1
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """How a parameter is split along one axis; made by `replicated`, `split`, `split_padded` and `split_sections`.

    Attributes:
        shape: of the full tensor.
        dim: the dim that is split; None where every rank holds the full tensor.
        pieces: of each rank, in local order; empty where `dim` is None.
        lengths: of each rank's tensor along `dim`; local indices in no piece are padding (zeros).
        rank: this rank. All other fields are the same on all ranks.
        size: the number of ranks.
    """

    shape: tuple[int, ...]
    dim: int | None
    pieces: tuple[tuple[Piece, ...], ...]
    lengths: tuple[int, ...]
    rank: int
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise CannotRunError(f"rank {self.rank} of {self.size}: give a rank below the size")
        if self.dim is None:
            return
        if not 0 <= self.dim < len(self.shape):
            raise CannotRunError(f"dim {self.dim} of a tensor of shape {list(self.shape)}: there is no such dim")
        if len(self.pieces) != self.size or len(self.lengths) != self.size:
            raise CannotRunError(f"pieces of {len(self.pieces)} ranks, needed is one entry for each of {self.size}")
        for held, length in zip(self.pieces, self.lengths, strict=True):
            _check_intervals([(piece.local, piece.length) for piece in held], length, "a rank's tensor", gaps=True)
        # Pieces of two ranks are equal or disjoint, and together they cover the dim.
        intervals = {(piece.full, piece.length) for held in self.pieces for piece in held}
        _check_intervals(sorted(intervals), self.shape[self.dim], "the full tensor", gaps=False)

    @property
    def local_shape(self) -> tuple[int, ...]:
        """The shape of this rank's tensor, padding included."""
        if self.dim is None:
            return self.shape
        return (*self.shape[: self.dim], self.lengths[self.rank], *self.shape[self.dim + 1 :])

    def on_rank(self, rank: int) -> Sharding:
        """The same sharding for another rank."""
        return Sharding(
            shape=self.shape, dim=self.dim, pieces=self.pieces, lengths=self.lengths, rank=rank, size=self.size
        )

    def counted_pieces(self) -> tuple[Piece, ...]:
        """This rank's pieces that no earlier rank holds: over all ranks, every index of the full dim once.

        Empty where `dim` is None: there the first rank counts the full tensor.
        """
        earlier = {piece.full for held in self.pieces[: self.rank] for piece in held}
        own = self.pieces[self.rank] if self.pieces else ()
        return tuple(piece for piece in own if piece.full not in earlier)

    def holders(self, piece: Piece) -> tuple[int, ...]:
        """The ranks that hold this piece of the full tensor, in order."""
        return tuple(rank for rank, held in enumerate(self.pieces) if any(other.full == piece.full for other in held))


def replicated(shape: Sequence[int], *, rank: int, size: int) -> Sharding:
    """Every rank holds the full tensor, and the first counts it."""
    return Sharding(shape=tuple(shape), dim=None, pieces=(), lengths=(), rank=rank, size=size)


def split(shape: Sequence[int], dim: int, *, rank: int, size: int) -> Sharding:
    """One piece a rank; lengths differ by at most one, the longer first, as in `worlds.communicator.shard_sizes`.

    Raises:
        CannotRunError: there is no such dim.
    """
    dim = nonnegative_dim(shape, dim)
    return split_sections(shape, dim, [Section(length=shape[dim])], rank=rank, size=size)


def split_padded(shape: Sequence[int], dim: int, *, multiple: int = 1, rank: int, size: int) -> Sharding:
    """One piece a rank, all local lengths equal: the dim's end is padded with zeros to a multiple of size * multiple.

    Args:
        shape: of the full tensor, without padding.
        dim: the dim that is split.
        multiple: that divides each rank's length.
        rank: this rank.
        size: the number of ranks.

    Raises:
        CannotRunError: there is no such dim, or `multiple` is below 1.
    """
    dim = nonnegative_dim(shape, dim)
    if multiple < 1:
        raise CannotRunError(f"a length padded to a multiple of {multiple}: give at least 1")
    total = shape[dim]
    length = -(-total // (size * multiple)) * multiple
    starts = [min(at * length, total) for at in range(size + 1)]
    pieces = [
        (Piece(local=0, full=start, length=stop - start),) if stop > start else () for start, stop in pairwise(starts)
    ]
    return Sharding(shape=tuple(shape), dim=dim, pieces=tuple(pieces), lengths=(length,) * size, rank=rank, size=size)


def split_sections(shape: Sequence[int], dim: int, sections: Sequence[Section], *, rank: int, size: int) -> Sharding:
    """A piece of each section a rank, in the order of the sections.

    Args:
        shape: of the full tensor.
        dim: the dim that is split.
        sections: the fused parts of that dim, in order.
        rank: this rank.
        size: the number of ranks.

    Raises:
        CannotRunError: the sections' lengths do not add up to the dim, a unit does not divide its section, or shared
            units cannot be replicated evenly.
    """
    dim = nonnegative_dim(shape, dim)
    if sum(section.length for section in sections) != shape[dim]:
        told = " + ".join(str(section.length) for section in sections)
        raise CannotRunError(f"sections of {told} in a dim of {shape[dim]}: their sum must be the dim")
    pieces, lengths = [], []
    for at in range(size):
        held: list[Piece] = []
        local = begin = 0
        for section in sections:
            start, stop = own_interval(section, at, size)
            if stop > start:
                held.append(Piece(local=local, full=begin + start, length=stop - start))
            local += stop - start
            begin += section.length
        pieces.append(tuple(held))
        lengths.append(local)
    return Sharding(shape=tuple(shape), dim=dim, pieces=tuple(pieces), lengths=tuple(lengths), rank=rank, size=size)


def own_interval(section: Section, rank: int, size: int) -> tuple[int, int]:
    """The half-open interval of the section that `rank` of `size` holds.

    Raises:
        CannotRunError: the unit does not divide the section, or shared units cannot be replicated evenly.
    """
    units, rest = divmod(section.length, section.unit)
    if rest:
        raise CannotRunError(f"a section of {section.length} in units of {section.unit}: units must divide it")
    if section.shared and 0 < units < size:
        if size % units:
            raise CannotRunError(
                f"{units} heads on {size} ranks: neither divides the other; choose ranks that divide the heads, or a "
                "multiple of them"
            )
        rank //= size // units
        size = units
    start, stop = shard_range(units, rank, size)
    return start * section.unit, stop * section.unit


def take(full: Tensor, sharding: Sharding) -> Tensor:
    """Cut this rank's tensor out of the full one, in new memory; padding is zero.

    Args:
        full: of `sharding.shape`, any dtype and device.
        sharding: of this rank.

    Returns:
        A contiguous tensor of `sharding.local_shape`.

    Raises:
        CannotRunError: the full tensor has another shape.
    """
    if tuple(full.shape) != sharding.shape:
        raise CannotRunError(f"a tensor of shape {list(full.shape)}; its sharding is of shape {list(sharding.shape)}")
    if sharding.dim is None:
        return full.clone(memory_format=torch.contiguous_format)
    local = full.new_zeros(sharding.local_shape)
    for piece in sharding.pieces[sharding.rank]:
        local.narrow(sharding.dim, piece.local, piece.length).copy_(full.narrow(sharding.dim, piece.full, piece.length))
    return local


def assemble(locals_: Sequence[Tensor], sharding: Sharding) -> Tensor:
    """Assemble the full tensor from every rank's; each element comes from the rank that counts it.

    Args:
        locals_: every rank's tensor, in rank order.
        sharding: of any rank.

    Returns:
        A tensor of `sharding.shape`.

    Raises:
        CannotRunError: there is not one tensor a rank, or one has another shape than its sharding says.
    """
    if len(locals_) != sharding.size:
        raise CannotRunError(f"{len(locals_)} local tensors; the sharding is over {sharding.size} ranks")
    for rank, local in enumerate(locals_):
        expected = sharding.on_rank(rank).local_shape
        if tuple(local.shape) != expected:
            raise CannotRunError(
                f"rank {rank}'s tensor has shape {list(local.shape)}; its sharding says {list(expected)}"
            )
    if sharding.dim is None:
        return locals_[0].clone(memory_format=torch.contiguous_format)
    full = locals_[0].new_empty(sharding.shape)
    for rank, local in enumerate(locals_):
        for piece in sharding.on_rank(rank).counted_pieces():
            full.narrow(sharding.dim, piece.full, piece.length).copy_(
                local.narrow(sharding.dim, piece.local, piece.length)
            )
    return full


def counted_parts(local: Tensor, sharding: Sharding) -> tuple[Tensor, ...]:
    """Views of the pieces that this rank counts of its tensor (a parameter, a gradient, an optimizer's state).

    Over all ranks, every element of the full tensor is in exactly one view, and padding in none. So the sum of squares
    over these views and all ranks is the square of the norm.

    Raises:
        CannotRunError: the tensor has another shape than the sharding says.
    """
    if tuple(local.shape) != sharding.local_shape:
        raise CannotRunError(f"a tensor of shape {list(local.shape)}; its sharding says {list(sharding.local_shape)}")
    if sharding.dim is None:
        return (local,) if sharding.rank == 0 else ()
    dim = sharding.dim
    return tuple(local.narrow(dim, piece.local, piece.length) for piece in sharding.counted_pieces())


def set_sharding(parameter: Tensor, sharding: Sharding) -> None:
    """Store the sharding on the parameter, as its attribute `shardproof_sharding`.

    `copy.deepcopy` of a parameter loses it.

    Raises:
        CannotRunError: the parameter has another shape than the sharding says.
    """
    if tuple(parameter.shape) != sharding.local_shape:
        raise CannotRunError(
            f"a parameter of shape {list(parameter.shape)}; its sharding says {list(sharding.local_shape)}"
        )
    setattr(parameter, _ATTRIBUTE, sharding)


def cut_parameter(parameter: Tensor, sharding: Sharding) -> nn.Parameter:
    """This rank's shard of a full parameter: in new memory, with its sharding set, frozen if the full one is.

    Raises:
        CannotRunError: the parameter has another shape than the sharding's full one.
    """
    local = nn.Parameter(take(parameter.detach(), sharding), requires_grad=parameter.requires_grad)
    set_sharding(local, sharding)
    return local


def draw(sharding: Sharding, fill: Callable[[Tensor], object], *, like: Tensor) -> Tensor:
    """Draw the full tensor and keep this rank's shard: the same values on any number of ranks.

    Every rank must draw from a generator in the same state. The full tensor exists only during this call.

    Args:
        sharding: of this rank.
        fill: writes random values into a full tensor (`nn.init.xavier_uniform_`, say).
        like: of the dtype and device wanted.

    Returns:
        A tensor of `sharding.local_shape`.
    """
    full = like.new_empty(sharding.shape)
    with torch.no_grad():
        fill(full)
    return take(full, sharding)


def sharding_of(parameter: Tensor) -> Sharding | None:
    """The sharding stored on a parameter; None where none is: an ordinary parameter."""
    found: Sharding | None = getattr(parameter, _ATTRIBUTE, None)
    return found


def require_sharding(parameter: Tensor, axis: Axis | None, *, name: str = "a parameter") -> Sharding:
    """The sharding of a parameter along `axis`; `replicated` where none is stored and there is one rank, or no axis.

    Raises:
        CannotRunError: none is stored and there are several ranks (to assume a replica could be wrong silently), it is
            for another rank or number of ranks, or the parameter is a DTensor.
    """
    if isinstance(parameter, DTensor):
        raise CannotRunError(f"{name} is a DTensor: use PyTorch's own functions for it, these take plain tensors")
    found = sharding_of(parameter)
    rank, size = (axis.rank, axis.size) if axis else (0, 1)
    if found is None and size == 1:
        return replicated(parameter.shape, rank=0, size=1)
    if found is None:
        raise CannotRunError(
            f"{name} of shape {list(parameter.shape)} carries no sharding: `parallelize` sets it, a deepcopy loses it; "
            "set it with set_sharding"
        )
    if (found.rank, found.size) != (rank, size):
        raise CannotRunError(f"{name} is sharded for rank {found.rank} of {found.size}; this is rank {rank} of {size}")
    return found


def _check_intervals(intervals: Sequence[tuple[int, int]], total: int, where: str, *, gaps: bool) -> None:
    """Raise unless intervals (start, length) are ordered and disjoint in `total`; without `gaps` they must fill it."""
    end = 0
    for start, length in intervals:
        if length < 1 or start < end or (not gaps and start > end):
            raise CannotRunError(f"a piece at {start} of length {length} in {where}: pieces lie side by side, in order")
        end = start + length
    if end > total or (not gaps and end < total):
        raise CannotRunError(f"pieces end at {end} in {where}, which is {total} long")
