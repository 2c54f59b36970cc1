"""What happened to a tensor, in one plain sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.checkpoints.damage import Kind
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.checkpoints.damage import Damage

_MOST_BLOCKS = 16


def describe_damage(damage: Damage) -> str:
    """One line."""
    return _SENTENCES[damage.kind](damage)


def _indexes(damage: Damage) -> str:
    return {0: "rows", 1: "columns"}.get(damage.dim or 0, f"indexes of dim {damage.dim}")


def _part(damage: Damage) -> str:
    """`rows 8 to 15`."""
    word = _indexes(damage)
    if damage.last - damage.first == 1:
        return f"{word.replace('rows', 'row').replace('columns', 'column').replace('indexes', 'index')} {damage.first}"
    return f"{word} {damage.first} to {damage.last - 1}"


def _be(damage: Damage) -> str:
    return "is" if damage.last - damage.first == 1 else "are"


def _shard(damage: Damage) -> str:
    """Which shard the part is, if it is one of equal shards."""
    size = damage.last - damage.first
    if damage.total % size or damage.first % size:
        return "a shard"
    return f"shard {damage.first // size} of {damage.total // size}"


def _swapped(damage: Damage) -> str:
    order = ", ".join(map(str, damage.order[:_MOST_BLOCKS])) + (", ..." if len(damage.order) > _MOST_BLOCKS else "")
    return (
        f"blocks swapped: the blocks of {damage.size} {_indexes(damage)} are those of expected in the order {order}; "
        "shards are put together in another order"
    )


def _repacked(damage: Damage) -> str:
    sizes = ", ".join(str(size * damage.size) for size in damage.sections)
    if damage.coarse > 1:
        return (
            f"split at another place: packed sections of {sizes} {_indexes(damage)}, each split by itself, by "
            f"{damage.coarse} ranks on one side and {damage.ranks} on the other; state the sections with --layout"
        )
    told = (
        f"split at another place: packed sections of {sizes} {_indexes(damage)}, which {damage.ranks} ranks split "
        "each by itself on one side, are one contiguous piece on the other"
    )
    if len(damage.order) == 4 and damage.order == (0, 2, 1, 3):
        told += "; or shards 1 and 2 of 4 are exchanged"
    return told


def _interleaved(damage: Damage) -> str:
    a, b, c = damage.view
    return (
        f"interleaved: {_indexes(damage)} are in another order, as by view({a}, {b}, {c}).transpose(1, 2); two formats "
        "of rotary embeddings or of packed projections"
    )


def _padded(damage: Damage) -> str:
    what = "all zero" if damage.count == 0 else "not all zero"
    return (
        f"padded: {damage.last} {_indexes(damage)} where {damage.first} are expected; the first {damage.first} are "
        f"equal, and the others are {what}"
    )


def _few(damage: Damage) -> str:
    verb = "differs" if damage.count == 1 else "differ"
    return f"{damage.count} of {damage.total} elements {verb}, the others are equal bit for bit"


_SENTENCES: dict[Kind, Callable[[Damage], str]] = {
    Kind.ABSENT: lambda _: "missing: only expected has it",
    Kind.EXTRA: lambda _: "extra: only actual has it",
    Kind.RENAMED: lambda d: f"renamed: actual has it as {printable(d.other)}; give --rename",
    Kind.TIED: lambda d: f"tied: only {d.side} has it, with the values of {printable(d.other)}, which both have",
    Kind.UNTIED: lambda d: (
        f"untied: in expected it holds the values of {printable(d.other)}, in actual not: they are not tied any more"
    ),
    Kind.EXCHANGED: lambda d: f"exchanged: it holds the values of {printable(d.other)}, and that holds its values",
    Kind.COPIED: lambda d: f"copied: it holds the values of {printable(d.other)}, which holds them too",
    Kind.MISNAMED: lambda d: f"misnamed: it holds what expected has as {printable(d.other)}",
    Kind.SHARD_ABSENT: lambda d: f"a shard is missing: {printable(d.other)} of {d.side} has none, the others have",
    Kind.REPLICAS_DIFFER: lambda d: (
        f"replicas differ in {d.side}: {printable(d.other)} holds other values than the first that has it"
    ),
    Kind.DTYPE: lambda d: f"dtype: {d.text}; values of different dtypes are compared with --cast",
    Kind.SHAPE: lambda d: f"shape: {d.text}, and the values are others",
    Kind.RESHAPED: lambda d: f"reshaped: {d.text}, with the same values in the same order",
    Kind.TRANSPOSED: lambda _: "transposed: actual is expected with rows and columns exchanged",
    Kind.PADDED: _padded,
    Kind.TRUNCATED: lambda d: (
        f"truncated: {d.last} {_indexes(d)} where {d.first} are expected; those that are there are equal"
    ),
    Kind.PERMUTED: lambda d: f"permuted: the same {_indexes(d)} in another order, {d.count} of {d.total} moved",
    Kind.REVERSED: lambda d: f"reversed: the same {_indexes(d)}, from the last to the first",
    Kind.SHIFTED: lambda d: (
        f"shifted: the same {_indexes(d)}, moved by {d.source} around the end, as if two parts were exchanged"
    ),
    Kind.BLOCKS_SWAPPED: _swapped,
    Kind.REPACKED: _repacked,
    Kind.INTERLEAVED: _interleaved,
    Kind.SHARD_ZERO: lambda d: (
        f"shard missing: {_part(d)} {_be(d)} zero, the others are equal; {_shard(d)} was not written"
    ),
    Kind.SHARD_NAN: lambda d: f"shard not written: {_part(d)} {_be(d)} NaN, the others are equal",
    Kind.SHARD_DOUBLED: lambda d: (
        f"shard doubled: {_part(d)} hold the values of {_indexes(d)} {d.source} to {d.source + d.last - d.first - 1}, "
        "which stand there too"
    ),
    Kind.SHARD_STALE: lambda d: (
        f"shard stale: only {_part(d)} differ, the others are equal bit for bit; {_shard(d)} may be of another step"
    ),
    Kind.SHARD_SCALED: lambda d: (
        f"shard scaled: {_part(d)} {_be(d)} {d.factor:.6g} times what they should be, the others are equal"
    ),
    Kind.SCALED: lambda d: f"scaled: every element is {d.factor:.6g} times what it should be",
    Kind.NEGATED: lambda _: "negated: every element has the other sign",
    Kind.OFFSET: lambda d: f"offset: every element is {abs(d.factor):.6g} too {'large' if d.factor > 0 else 'small'}",
    Kind.ROUNDED: lambda d: f"rounded: actual is expected rounded to {printable(d.other)}",
    Kind.ZERO: lambda _: "zero: every element is zero, as if it was never written or loaded",
    Kind.NOT_FINITE: lambda d: (
        f"not finite: {d.count} of {d.total} elements are NaN or infinite where expected has numbers"
    ),
    Kind.FEW: _few,
    Kind.DIFFERS: lambda d: f"differs: {d.count} of {d.total} elements, and no relation explains it",
}
