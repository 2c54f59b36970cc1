"""Values: how the pieces of tensor-parallel ranks make a full tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.checkpoints.full import FullTensor, Placement
from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardproof.checkpoints.pieces import Piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicated:
    """Every rank has the full tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Every rank has a part, along one dim.

    Attributes:
        dim: along which the parts are put one after another, in the order of ranks.
        sections: where the tensor is several packed one after another, each split by itself (query, key and value; gate
            and up): their sizes in any unit (rows, heads). A section with fewer units than there are ranks (key and
            value heads) is repeated on ranks next to each other. An int stands for so many sections of one size.
        groups: where not 0, the full tensor has the sections of the first of so many groups, then those of the second,
            and so on (Megatron's query groups); it is put in the order of sections.
        size: of the dim in the full tensor; what is beyond it is padding. None: there is no padding.
    """

    dim: int
    sections: tuple[int, ...] | int = 1
    groups: int = 0
    size: int | None = None


How = Replicated | Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The pieces of one tensor.

    Attributes:
        pieces: by tensor-parallel rank; the same part on further ranks (of other stages) stands behind the first.
        group: the tensor-parallel ranks that should hold it, in order.
        axis: what these ranks are called: "rank", "tp".
    """

    pieces: Mapping[int, tuple[Piece, ...]]
    group: tuple[int, ...] = (0,)
    axis: str = "rank"

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the pieces that are there, in the order of ranks."""
        return tuple(self.pieces[rank][0].shape for rank in self.group if rank in self.pieces)

    @property
    def first(self) -> Piece:
        return next(self.pieces[rank][0] for rank in self.group if rank in self.pieces)

    @property
    def lost(self) -> tuple[int, ...]:
        """The ranks that should hold it and don't."""
        return tuple(rank for rank in self.group if rank not in self.pieces)

    def name_rank(self, rank: int) -> str:
        return f"{self.axis} {rank}" if len(self.group) > 1 else ""


def put_together(held: Held, how: How) -> FullTensor:
    """The full tensor of which ranks hold pieces.

    Raises:
        CannotRunError: the sizes or the dtypes of the pieces don't fit.
    """
    pieces = [piece for copies in held.pieces.values() for piece in copies]
    dtypes = {piece.dtype for piece in pieces}
    if len(dtypes) > 1:
        told = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise CannotRunError(f"ranks hold it in different dtypes: {told}")
    if isinstance(how, Replicated):
        shape, boxes = _repeat(held)
        told = f"replicated on {len(held.group)} ranks" if len(held.group) > 1 else ""
    else:
        shape, boxes = _lay_out(held, how)
        told = f"split on dim {how.dim} by {len(held.group)} ranks" if len(held.group) > 1 else ""
    placements: list[Placement] = []
    copies: list[Placement] = []
    taken: set[tuple[int, ...]] = set()
    for rank, start, sizes, at in boxes:
        for order, piece in enumerate(held.pieces[rank]):
            if piece.shape != held.pieces[rank][0].shape:
                raise CannotRunError(
                    f"copies of it have different shapes: {_tell((held.pieces[rank][0].shape, piece.shape))}"
                )
            holder = held.name_rank(rank) + (f", copy {order}" if order else "")
            one = Placement(piece=piece, holder=holder, start=start, sizes=sizes, at=at)
            (copies if start in taken else placements).append(one)
            taken.add(start)
    missing = () if isinstance(how, Replicated) else tuple(map(held.name_rank, held.lost))
    inner = tuple(gap for piece in pieces if isinstance(piece, FullTensor) for gap in piece.missing)
    full = FullTensor(
        shape=shape,
        dtype=held.first.dtype,
        placements=tuple(placements),
        copies=tuple(copies),
        missing=missing + inner,
        how=told or (held.first.how if isinstance(held.first, FullTensor) else ""),
    )
    return _crop(full, how)


def _crop(full: FullTensor, how: How) -> FullTensor:
    if isinstance(how, Replicated) or how.size is None or how.size == full.shape[how.dim]:
        return full
    if how.size > full.shape[how.dim]:
        raise CannotRunError(
            f"the layout says size {how.size} on dim {how.dim}, and the ranks hold {full.shape[how.dim]} together"
        )
    return full.narrow(how.dim, 0, how.size)


def _repeat(held: Held) -> tuple[tuple[int, ...], list[_Box]]:
    if len(set(held.shapes)) > 1:
        raise CannotRunError(f"it is replicated by the layout, and its pieces have shapes {_tell(held.shapes)}")
    shape = held.first.shape
    zeros = (0,) * len(shape)
    return shape, [(rank, zeros, shape, zeros) for rank in held.group if rank in held.pieces]


_Box = tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _lay_out(held: Held, how: Split) -> tuple[tuple[int, ...], list[_Box]]:
    """The full shape, and of each rank the boxes that it holds: (rank, start, sizes, at)."""
    shape = held.first.shape
    d = how.dim
    if d >= len(shape) or any(s[:d] + s[d + 1 :] != shape[:d] + shape[d + 1 :] for s in held.shapes):
        raise CannotRunError(f"pieces of shapes {_tell(held.shapes)} cannot be put together on dim {d}")
    runs = _plain_runs(held, d) if how.sections == 1 else _section_runs(held, how)
    boxes = [
        (rank, _at(d, start, shape), (*shape[:d], size, *shape[d + 1 :]), _at(d, at, shape))
        for rank, start, size, at in runs
        if rank in held.pieces
    ]
    total = max(start + size for _, start, size, _ in runs)
    return (*shape[:d], total, *shape[d + 1 :]), boxes


_Run = tuple[int, int, int, int]  # rank, start in the full tensor, size, start in the piece


def _plain_runs(held: Held, d: int) -> list[_Run]:
    """One part after another; a rank that is missing has as much as the first that is there."""
    runs = []
    start = 0
    for rank in held.group:
        size = held.pieces.get(rank, (held.first,))[0].shape[d]
        runs.append((rank, start, size, 0))
        start += size
    return runs


def _section_runs(held: Held, how: Split) -> list[_Run]:
    n, size = len(held.group), held.first.shape[how.dim]
    if len(set(held.shapes)) > 1:
        raise CannotRunError(f"pieces of shapes {_tell(held.shapes)} have packed sections; needed are equal shapes")
    units = (n,) * how.sections if isinstance(how.sections, int) else how.sections
    for count in units:
        if count % n and n % count:
            raise CannotRunError(f"a section of {count} units cannot be split by {n} ranks; state it in smaller units")
    shares = [max(1, count // n) for count in units]
    if size % sum(shares):
        raise CannotRunError(
            f"sections of {', '.join(map(str, units))} units don't fit pieces of {size} on dim {how.dim} of {n} ranks"
        )
    unit = size // sum(shares)
    groups = how.groups // n if how.groups else 1
    if how.groups % n or any(share % groups for share in shares if groups > 1):
        raise CannotRunError(f"{how.groups} groups cannot be split by {n} ranks with these sections")
    runs = []
    for rank, name in enumerate(held.group):
        at = 0
        for group in range(groups):
            offset = 0
            for count, share in zip(units, shares, strict=True):
                part = share // groups
                begin = rank * share + group * part if count >= n else rank * count // n
                runs.append((name, unit * (offset + begin), unit * part, at))
                offset += count
                at += unit * part
    return runs


def _at(d: int, value: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(value if dim == d else 0 for dim in range(len(shape)))


def _tell(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join(str(list(shape)) for shape in shapes[:4]) + (", ..." if len(shapes) > 4 else "")
