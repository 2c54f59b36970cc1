"""Collectives in a picture: how many bytes at least pass through a rank, and their names in the field's terms."""

from __future__ import annotations

import re
from math import prod
from typing import TYPE_CHECKING

import torch

from shardproof.report.page.description import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardproof.proving.records import CollectiveCall

_FAMILIES = {
    "allreduce": "all-reduce",
    "allgather": "all-gather",
    "reducescatter": "reduce-scatter",
    "alltoall": "all-to-all",
    "broadcast": "broadcast",
    "receive": "receive",
    "send": "send",
    "recv": "receive",
    "reduce": "reduce",
    "scatter": "scatter",
    "gather": "gather",
}
_UNITS = ("B", "kB", "MB", "GB", "TB")


def name_family(kind: str) -> str:
    """The field's name of a collective: 'AllReduce SUM' and 'all_reduce_ SUM' are an all-reduce."""
    plain = re.sub(r"[^a-z]", "", kind.partition(" ")[0].lower())
    return next((name for prefix, name in _FAMILIES.items() if plain.startswith(prefix)), kind)


def count_bytes(call: CollectiveCall) -> int:
    """The least that passes through a rank in one direction, as a ring algorithm moves it; see `worlds/ledger.py`.

    A call on a process group shows its results and its operands; a functional one (all in small letters, without an
    underscore at the end) its operands alone.
    """
    elements, ranks = sum(map(prod, call.shapes)), max(len(call.ranks), 1)
    word = call.kind.partition(" ")[0]
    results_too = word[:1].isupper() or word.endswith("_")
    family = name_family(call.kind)
    others = ranks - 1
    if family == "all-reduce":
        moved = 2 * others * elements // ranks
    elif family in ("all-gather", "gather"):
        moved = others * elements // (ranks + 1 if results_too else 1)
    elif family in ("reduce-scatter", "scatter"):
        moved = others * elements // (ranks + 1 if results_too else ranks)
    elif family == "all-to-all":
        moved = others * elements // (2 * ranks if results_too else ranks)
    else:
        moved = elements
    dtype = getattr(torch, call.dtype, None) if call.dtype else None
    return moved * (dtype.itemsize if isinstance(dtype, torch.dtype) else 1)


def say_bytes(count: float) -> str:
    """With a unit and at most two digits behind the point: '2.3 kB'."""
    for unit in _UNITS:
        if count < 1000 or unit == _UNITS[-1]:
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError(count)


def merge_traffic(calls: Iterable[CollectiveCall]) -> tuple[Traffic, ...]:
    """The collectives of one place, those of one kind over the same ranks as one."""
    groups: dict[tuple[str, tuple[int, ...]], list[CollectiveCall]] = {}
    for call in calls:
        groups.setdefault((name_family(call.kind), call.ranks), []).append(call)
    return tuple(_tell(family, ranks, group) for (family, ranks), group in groups.items())


def _tell(family: str, ranks: tuple[int, ...], calls: list[CollectiveCall]) -> Traffic:
    size = say_bytes(sum(map(count_bytes, calls)))
    first = calls[0]
    shapes = " x ".join(map(str, first.shapes[0])) or "a number" if first.shapes else "nothing"
    several = f"{len(calls)} calls, the first of" if len(calls) > 1 else "of"
    over = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    words = f"{family} over ranks {over}: {several} {shapes} {first.dtype}; at least {size} through each rank"
    return Traffic(kind=family, count=len(calls), size=size, words=words)
