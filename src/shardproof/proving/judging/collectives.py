"""Collectives: where the sequences of two runs diverge.

In exact arithmetic the user's code must call the same collectives as in their own dtypes; otherwise the proof is not of
what they run. On each rank, the calls of one step over one group of ranks are aligned by kind, reduction, kind of dtype
and shapes; where they are called is told and not compared. No divergence is

- a call at another place in that sequence: a cast that does nothing in exact arithmetic moves hooks;
- an average by a sum and a division: FSDP2 averages by AVG or PREMUL_SUM in float32 and bfloat16, and by SUM and
  divisions in any other dtype. The runs' values show whether it is right;
- flat tensors that are filled otherwise, with as many elements in all: DDP has buckets of so many bytes, and float64
  takes more of them for an element;
- rows that a routing sends to other ranks: shapes differ along dim 0 alone, and over all ranks there are as many rows;
  in an all-to-all, after integers that came of comparisons have been read, also more or fewer: experts that have room
  for so many tokens drop others in each run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.proving.records import CollectiveCall, Records

_Signature = tuple[str, str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Collectives in which two runs' sequences differ; None where one run has no such call."""

    exact: CollectiveCall | None
    native: CollectiveCall | None
    ranks: tuple[int, ...]

    @property
    def first(self) -> CollectiveCall:
        """The one that says where."""
        found = self.exact or self.native
        assert found is not None
        return found

    @property
    def only_shapes(self) -> bool:
        """The same collective, of other shapes: these may depend on values, as a routing's do."""
        return self.exact is not None and self.native is not None and _kind(self.exact) == _kind(self.native)


def find_divergences(exact: Sequence[Records], native: Sequence[Records]) -> list[Divergence]:
    """All divergences, by step; what diverges alike on several ranks is one.

    Args:
        exact: of each rank, of a run in exact arithmetic.
        native: of each rank, of the run in the user's own dtypes.
    """
    by_rank = [_diverge(one.collectives, other.collectives) for one, other in zip(exact, native, strict=True)]
    merged: dict[tuple[object, ...], dict[int, Divergence]] = defaultdict(dict)
    for rank, pairs in enumerate(by_rank):
        count: Counter[tuple[object, ...]] = Counter()
        for one, other in pairs:
            here = Divergence(exact=one, native=other, ranks=(rank,))
            alike = (
                here.first.step,
                *(None if call is None else (_kind(call), call.location) for call in (one, other)),
            )
            merged[*alike, count[alike]][rank] = here
            count[alike] += 1
    routed = _find_routed([one for ranks in merged.values() for one in ranks.values()])
    found = [
        Divergence(exact=first.exact, native=first.native, ranks=tuple(ranks))
        for ranks in merged.values()
        for first in [next(iter(ranks.values()))]
        if not all(one in routed for one in ranks.values())
    ]
    return sorted(found, key=lambda one: one.first.step)


def conclude_divergences(divergences: Sequence[Divergence], dtype: str) -> list[Finding]:
    """The finding of each divergence.

    Args:
        divergences: between exact arithmetic and the user's own dtypes.
        dtype: the user's, as `Native.dtype`.
    """
    findings = []
    calls: Counter[tuple[int, str]] = Counter()
    for divergence in divergences:
        step, location = divergence.first.step, divergence.first.location
        cause = Cause(
            kind=CauseKind.COLLECTIVES_DIVERGE,
            exact_collective=divergence.exact,
            native_collective=divergence.native,
            dtype=dtype,
        )
        findings.append(
            Finding(
                key=Key(step, Phase.COLLECTIVES, location, calls[step, location]),
                verdict=Verdict.UNDECIDED if divergence.only_shapes else Verdict.WRONG,
                cause=cause,
                ranks=divergence.ranks,
            )
        )
        calls[step, location] += 1
    return findings


def find_lower_dtype(native: Sequence[Records], dtype: str) -> CollectiveCall | None:
    """The first collective of floating tensors in a lower precision than any dtype of the model; None if there is none.

    Args:
        native: of each rank, of the run in the user's own dtypes.
        dtype: the user's, as `Native.dtype`.
    """
    coarsest = max(_epsilon(one) for one in dtype.split(" and "))
    calls = (call for records in native for call in records.collectives)
    return next((call for call in calls if _epsilon(call.dtype) > coarsest), None)


def _epsilon(dtype: str) -> float:
    """Of a floating dtype by its name; 0 for any other name."""
    known = getattr(torch, dtype, None) if dtype else None
    return torch.finfo(known).eps if isinstance(known, torch.dtype) and known.is_floating_point else 0.0


def _diverge(
    exact: Sequence[CollectiveCall], native: Sequence[CollectiveCall]
) -> list[tuple[CollectiveCall | None, CollectiveCall | None]]:
    """What one rank calls in one run and not in the other, side by side where only the shapes differ."""
    groups = dict.fromkeys((call.step, call.ranks) for call in (*exact, *native))
    found: list[tuple[CollectiveCall | None, CollectiveCall | None]] = []
    for group in groups:
        here = [call for call in exact if (call.step, call.ranks) == group]
        there = [call for call in native if (call.step, call.ranks) == group]
        found += _pair_rest(*_unmatched(here, there))
    return found


def _unmatched(
    exact: Sequence[CollectiveCall], native: Sequence[CollectiveCall]
) -> tuple[list[CollectiveCall], list[CollectiveCall]]:
    """The calls of either sequence that the other has not, wherever in it."""
    matcher = SequenceMatcher(None, [_signature(one) for one in exact], [_signature(one) for one in native], False)
    here: list[CollectiveCall] = []
    there: list[CollectiveCall] = []
    for tag, start, stop, other_start, other_stop in matcher.get_opcodes():
        if tag != "equal":
            here += exact[start:stop]
            there += native[other_start:other_stop]
    moved = Counter(map(_signature, here)) & Counter(map(_signature, there))
    return _without(here, moved), _without(there, moved)


def _without(calls: Sequence[CollectiveCall], moved: Counter[_Signature]) -> list[CollectiveCall]:
    left, rest = moved.copy(), []
    for call in calls:
        if left[_signature(call)]:
            left[_signature(call)] -= 1
        else:
            rest.append(call)
    return rest


def _pair_rest(
    exact: Sequence[CollectiveCall], native: Sequence[CollectiveCall]
) -> list[tuple[CollectiveCall | None, CollectiveCall | None]]:
    """Calls of one kind side by side, in order; one without its like stands alone, or beside what is in its place."""
    pairs: list[tuple[CollectiveCall | None, CollectiveCall | None]] = []
    rest: tuple[list[CollectiveCall], list[CollectiveCall]] = ([], [])
    more, others = 0, []  # buckets in the first run than in the second; calls that fill none
    for kind in dict.fromkeys(map(_kind, (*exact, *native))):
        here, there = ([call for call in calls if _kind(call) == kind] for calls in (exact, native))
        if _in_other_buckets(here, there):
            more += len(here) - len(there)
        else:
            others.append((here, there))
    for here, there in others:
        if more and _tell_buckets(here, there, more):
            continue
        both = min(len(here), len(there))
        pairs += zip(here[:both], there[:both], strict=True)
        rest[0].extend(here[both:])
        rest[1].extend(there[both:])
    return [*pairs, *zip_longest(*rest)]


def _in_other_buckets(exact: Sequence[CollectiveCall], native: Sequence[CollectiveCall]) -> bool:
    """Whether calls of one kind hand over flat tensors with as many elements in all."""
    shapes = [[shape for call in calls for shape in call.shapes] for calls in (exact, native)]
    flat = all(len(shape) == 1 for shape in (*shapes[0], *shapes[1]))
    here, there = (sum(shape[0] for shape in of_run) if flat else 0 for of_run in shapes)
    return here == there > 0


def _tell_buckets(exact: Sequence[CollectiveCall], native: Sequence[CollectiveCall], more: int) -> bool:
    """Whether one flat tensor of integers has so many more elements in the first run: DDP tells each bucket's size."""
    calls = (*exact, *native)
    flat = len(exact) == len(native) == 1 and all(len(call.shapes) == len(call.shapes[0]) == 1 for call in calls)
    integers = all(call.dtype.startswith("int") for call in calls)
    return flat and integers and exact[0].shapes[0][0] - native[0].shapes[0][0] == more


def _find_routed(divergences: Sequence[Divergence]) -> list[Divergence]:
    """Those in which a rank has other rows: of all calls of that kind in a step as many, or as many as it chose.

    Args:
        divergences: of all ranks, each of one.
    """
    rows: dict[object, Counter[tuple[int, ...]]] = defaultdict(Counter)
    by_rows = [one for one in divergences if one.only_shapes and _only_rows(one)]
    for one in by_rows:
        assert one.exact is not None
        assert one.native is not None
        for sign, shapes in ((1, one.exact.shapes), (-1, one.native.shapes)):
            for shape in shapes:
                rows[_call_kind(one)][shape[1:]] += sign * shape[0]
    return [one for one in by_rows if _may_drop(one) or not any(rows[_call_kind(one)].values())]


def _may_drop(divergence: Divergence) -> bool:
    """Whether a choice of the run says how many rows there are."""
    call = divergence.exact
    return call is not None and call.after_choices and "alltoall" in call.kind.lower().replace("_", "")


def _call_kind(divergence: Divergence) -> tuple[int, tuple[str, str]]:
    return divergence.first.step, _kind(divergence.first)


def _only_rows(divergence: Divergence) -> bool:
    """Whether the shapes of its two calls differ along dim 0 alone."""
    assert divergence.exact is not None
    assert divergence.native is not None
    here, there = divergence.exact.shapes, divergence.native.shapes
    return () not in (*here, *there) and [shape[1:] for shape in here] == [shape[1:] for shape in there]


def _signature(call: CollectiveCall) -> _Signature:
    """What is compared of two calls of one step and one group."""
    return (*_kind(call), call.shapes)


def _kind(call: CollectiveCall) -> tuple[str, str]:
    """The collective, its reduction and its kind of dtype: exact arithmetic has but one floating dtype."""
    known = getattr(torch, call.dtype, None) if call.dtype else torch.float64
    dtype = call.dtype
    if isinstance(known, torch.dtype) and (known.is_floating_point or known.is_complex):
        dtype = "complex" if known.is_complex else "floating"
    return call.kind.replace(" AVG", " SUM").replace(" PREMUL_SUM", " SUM"), dtype
