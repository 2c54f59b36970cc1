"""Two full tensors that are not equal -> what happened."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from shardproof.checkpoints.damage import Damage, Kind
from shardproof.checkpoints.fingerprints import fingerprint, fingerprint_whole
from shardproof.checkpoints.order import find_move
from shardproof.checkpoints.relations import count_differing, find_relation

if TYPE_CHECKING:
    from shardproof.checkpoints.full import FullTensor

# Fingerprints along a dim take memory for each index.
_MOST_INDEXES = 1 << 24
_MOST_DIMS = 4
_OF_PARTS = {Kind.SHARD_ZERO, Kind.SHARD_DOUBLED, Kind.SHARD_STALE}


def diagnose(actual: FullTensor, expected: FullTensor, dtype: torch.dtype) -> Damage:
    """What happened to `actual`, whose values in `dtype` are not those of `expected`: the simplest that explains all.

    It reads both a few times, in blocks.
    """
    if actual.shape != expected.shape:
        return _compare_shapes(actual, expected, dtype)
    relation = find_relation(actual, expected, dtype)
    if relation is not None and relation.kind not in (Kind.NOT_FINITE, Kind.FEW):
        return relation
    moves = [move for dim in _list_dims(expected) if (move := _find_along(actual, expected, dim, dtype)) is not None]
    whole = [move for move in moves if move.kind not in _OF_PARTS]
    if whole:
        return min(whole, key=lambda move: move.kind is Kind.PERMUTED)
    parts = sorted(moves, key=lambda move: ((move.last - move.first) / move.total, move.dim))
    if relation is not None and not (relation.kind is Kind.NOT_FINITE and parts):
        return relation
    if parts:
        return _look_into(parts[0], actual, expected, dtype)
    if len(expected.shape) == 2 and len(set(expected.shape)) == 1 and _is_transposed(actual, expected, dtype):
        return Damage(kind=Kind.TRANSPOSED)
    return count_differing(actual, expected, dtype)


def _list_dims(full: FullTensor) -> list[int]:
    return [dim for dim, n in enumerate(full.shape[:_MOST_DIMS]) if 1 < n <= _MOST_INDEXES]


def _find_along(actual: FullTensor, expected: FullTensor, dim: int, dtype: torch.dtype) -> Damage | None:
    return find_move(fingerprint(actual, dim, dtype), fingerprint(expected, dim, dtype), dim)


def _look_into(part: Damage, actual: FullTensor, expected: FullTensor, dtype: torch.dtype) -> Damage:
    """What happened in a part that holds new values."""
    if part.kind is not Kind.SHARD_STALE:
        return part
    assert part.dim is not None
    a, e = (side.narrow(part.dim, part.first, part.last) for side in (actual, expected))
    relation = find_relation(a, e, dtype)
    if relation is not None and relation.kind in (Kind.SCALED, Kind.NEGATED):
        return replace(part, kind=Kind.SHARD_SCALED, factor=relation.factor)
    if relation is not None and relation.kind is Kind.NOT_FINITE and relation.count == relation.total:
        return replace(part, kind=Kind.SHARD_NAN)
    if relation is not None and relation.kind is Kind.NOT_FINITE:
        return Damage(kind=Kind.NOT_FINITE, count=relation.count, total=expected.count)
    return part


def _compare_shapes(actual: FullTensor, expected: FullTensor, dtype: torch.dtype) -> Damage:
    text = f"shape {list(actual.shape)} where {list(expected.shape)} is expected"
    a, e = actual.shape, expected.shape
    if len(a) == len(e) == 2 and a == e[::-1] and _is_transposed(actual, expected, dtype):
        return Damage(kind=Kind.TRANSPOSED)
    apart = [dim for dim in range(len(e)) if a[dim] != e[dim]] if len(a) == len(e) else []
    if len(apart) == 1 and max(a[apart[0]], e[apart[0]]) <= _MOST_INDEXES:
        (dim,) = apart
        x, y = fingerprint(actual, dim, dtype), fingerprint(expected, dim, dtype)
        both = min(a[dim], e[dim])
        if torch.equal(x.values[:both], y.values[:both]):
            kind = Kind.PADDED if a[dim] > e[dim] else Kind.TRUNCATED
            beyond = int((~x.zero[both:]).count_nonzero())
            return Damage(kind=kind, dim=dim, first=e[dim], last=a[dim], count=beyond)
    if actual.count == expected.count and fingerprint_whole(actual, dtype) == fingerprint_whole(expected, dtype):
        return Damage(kind=Kind.RESHAPED, text=text)
    return Damage(kind=Kind.SHAPE, text=text)


def _is_transposed(actual: FullTensor, expected: FullTensor, dtype: torch.dtype) -> bool:
    if max(expected.shape) > _MOST_INDEXES:
        return False
    return torch.equal(fingerprint(actual, 0, dtype).values, fingerprint(expected, 1, dtype).values)
