"""Values: what happened to a tensor that is not what it should be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What happened, in a word."""

    ABSENT = "absent"
    EXTRA = "extra"
    RENAMED = "renamed"
    TIED = "tied"
    UNTIED = "untied"
    EXCHANGED = "exchanged"
    COPIED = "copied"
    MISNAMED = "misnamed"
    SHARD_ABSENT = "shard absent"
    REPLICAS_DIFFER = "replicas differ"
    DTYPE = "dtype"
    SHAPE = "shape"
    RESHAPED = "reshaped"
    TRANSPOSED = "transposed"
    PADDED = "padded"
    TRUNCATED = "truncated"
    PERMUTED = "permuted"
    REVERSED = "reversed"
    SHIFTED = "shifted"
    BLOCKS_SWAPPED = "blocks swapped"
    REPACKED = "split at another place"
    INTERLEAVED = "interleaved"
    SHARD_ZERO = "shard missing"
    SHARD_NAN = "shard not written"
    SHARD_DOUBLED = "shard doubled"
    SHARD_STALE = "shard stale"
    SHARD_SCALED = "shard scaled"
    SCALED = "scaled"
    NEGATED = "negated"
    OFFSET = "offset"
    ROUNDED = "rounded"
    ZERO = "zero"
    NOT_FINITE = "not finite"
    FEW = "few elements"
    DIFFERS = "differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What happened to one tensor; which fields are set depends on the kind.

    Attributes:
        kind: what happened.
        dim: of the tensor, along which something moved or is missing.
        first, last: the part along `dim` that is not right, `last` excluded; after padding, the sizes of both sides.
        source: the first index along `dim` of where the part's values belong; by how much indexes are shifted.
        size: of each block along `dim`.
        order: for each block of `actual`, the block of `expected` that it holds.
        sections: sizes of packed sections, in blocks.
        coarse, ranks: the numbers of ranks that split each section on the two sides, the smaller first.
        view: sizes (a, b, c) for which `view(a, b, c).transpose(1, 2)` leads from `expected` to `actual`, along `dim`.
        factor: by which values are multiplied, or what is added to them.
        count, total: how many elements or indexes of how many.
        other: a name, of another tensor, a rank or a dtype.
        side: "actual" or "expected", where it matters.
        text: what is found, where only words tell it (shapes, dtypes).
    """

    kind: Kind
    dim: int | None = None
    first: int = 0
    last: int = 0
    source: int = 0
    size: int = 0
    order: tuple[int, ...] = ()
    sections: tuple[int, ...] = ()
    coarse: int = 1
    ranks: int = 0
    view: tuple[int, int, int] = (0, 0, 0)
    factor: float = 0.0
    count: int = 0
    total: int = 0
    other: str = ""
    side: str = ""
    text: str = ""
