"""Alignment: for each tensor, what every rank holds beside what it should hold according to the reference."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.exact import VOID
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.judging.placement import find_placement, find_rows, place_activation
from shardproof.proving.part import Part
from shardproof.proving.records import ACTIVATIONS, OF_PARAMETERS, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from shardproof.proving.axes import Axes
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.records import BothSides, Recorded, Records, SideRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ActualExpected:
    """What one rank holds of a tensor and what it should hold: of one shape, unless the rank's is wrong.

    Attributes:
        actual: the rank's.
        expected: the reference's.
        element_index: of a parameter's tensor, each element's index in the full state, or PADDING; else None.
    """

    actual: Tensor
    expected: Tensor
    element_index: Tensor | None = None

    @property
    def judged(self) -> ActualExpected:
        """Less the elements that are void on either side: 0 on both."""
        void = (self.actual == VOID) | (self.expected == VOID)
        if not bool(void.any()):
            return self
        return replace(self, actual=self.actual.masked_fill(void, 0), expected=self.expected.masked_fill(void, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """One tensor on all ranks.

    Attributes:
        held: by rank; empty where `fault` says why nothing can be compared.
        involved: the records of either side that it came from.
        fault: why no values can be compared, if they cannot.
    """

    held: Mapping[int, ActualExpected]
    involved: Sequence[Recorded]
    fault: Cause | None = None

    @property
    def misshapen(self) -> ActualExpected | None:
        """The first rank's that is not of the expected shape, if there is one."""
        return next((one for one in self.held.values() if one.actual.shape != one.expected.shape), None)


@dataclass(slots=True, kw_only=True)
class Alignment:
    """The records of the reference and of the candidate's ranks, of one run."""

    reference: Records
    ranks: Sequence[Records]
    layout: Layout
    axes: Axes
    own_training: bool = False  # then a scalar that a module returns may be a rank's share of the reference's
    _vectors: dict[tuple[int, Phase, str], tuple[Tensor, Tensor]] = field(default_factory=dict)
    _coverage: dict[tuple[int, Phase, str], Tensor] = field(default_factory=dict)
    _stand_ins: dict[tuple[int, Phase], Tensor] = field(default_factory=dict)
    _starts: dict[int, Tensor] = field(default_factory=dict)
    _calls: dict[int, Counter[tuple[int, Phase, str]]] = field(default_factory=dict)

    def of(self, key: Key) -> Aligned | None:
        """The tensor on all ranks; None for an activation whose layout cannot be inferred."""
        here = {rank: records.tensors[key] for rank, records in enumerate(self.ranks) if key in records.tensors}
        if key.phase in OF_PARAMETERS:
            return self._of_parameter(key, here)
        expected = self.reference.tensors.get(key)
        if expected is None:
            if key.phase in ACTIVATIONS:
                return None
            return Aligned(held={}, involved=[], fault=Cause(kind=CauseKind.NOT_IN_REFERENCE))
        involved = [*here.values(), expected]
        if key.phase in ACTIVATIONS:
            if (self.own_training or self.axes.shares > 1) and not expected.stored.ndim:
                return None
            parts = {rank: one.values for rank, one in here.items()}
            if not self._is_called_alike(key):
                microbatches = self._of_microbatches(key, here)
                if microbatches is None:
                    return None
                parts = {rank: torch.cat([one.values for one in calls]) for rank, calls in microbatches.items()}
                involved = [expected, *(one for calls in microbatches.values() for one in calls)]
            rows = find_rows(self.layout, key.name, self.axes)
            wanted = place_activation(parts, expected.values, self.axes, rows, self.layout.orders)
            if wanted is None:
                return None
            held = {rank: ActualExpected(actual=part, expected=wanted[rank]) for rank, part in parts.items()}
            return Aligned(held=held, involved=involved)
        parts = {rank: one.values for rank, one in here.items()}
        placed = None
        if key.phase is Phase.BUFFER and any(part.shape != expected.shape for part in parts.values()):
            placed = place_activation(parts, expected.values, self.axes)  # the ranks hold shards of it
        wanted = placed or dict.fromkeys(parts, expected.values)
        return Aligned(
            held={rank: ActualExpected(actual=part, expected=wanted[rank]) for rank, part in parts.items()},
            involved=involved,
        )

    def _is_called_alike(self, key: Key) -> bool:
        """Whether every rank that calls a module calls it as often as one device does.

        Otherwise their calls are not of the same values: a rank calls the activation function of its own experts alone.
        """
        whole, *parts = (self._count_calls(records, key) for records in (self.reference, *self.ranks))
        return all(count in (0, whole) for count in parts)

    def _of_microbatches(self, key: Key, here: Mapping[int, Recorded]) -> dict[int, list[Recorded]] | None:
        """By rank, what the calls of a module give that one device calls once: rows of one tensor, in their order.

        None if they are not that. Ranks that share out rows otherwise than in microbatches call it as often as one
        device does.
        """
        if not self.own_training or self._count_calls(self.reference, key) != 1:
            return None
        calls = {
            rank: [
                self.ranks[rank].tensors[replace(key, call=number)]
                for number in range(self._count_calls(self.ranks[rank], key))
            ]
            for rank in here
        }
        shapes = {one.shape[1:] for parts in calls.values() for one in parts if one.stored.ndim}
        same = len({len(parts) for parts in calls.values()}) == 1 and len(shapes) == 1
        return calls if same and all(one.stored.ndim for parts in calls.values() for one in parts) else None

    def _count_calls(self, records: Records, key: Key) -> int:
        if id(records) not in self._calls:
            self._calls[id(records)] = Counter((one.step, one.phase, one.name) for one in records.tensors)
        return self._calls[id(records)][key.step, key.phase, key.name]

    def starts_of(self, key: Key) -> Mapping[int, Tensor]:
        """By rank, what it should hold of an updated parameter before the update; ranks of which it is not known lack.

        The one device's: what a rank holds then is a finding of its own where it differs.
        """
        if key.step not in self._starts:
            starts = self.reference.starts
            keys = {name: self._reference_key(key.step, Phase.UPDATE, name, "") for name in self.layout.state.names}
            if not starts or any(one not in starts for one in keys.values()):
                return {}
            self._starts[key.step] = self.layout.state.flatten({name: starts[one].values for name, one in keys.items()})
        ranks = self.layout.element_index.get(key.name, {})
        return {rank: self.layout.take(self._starts[key.step], key.name, rank) for rank in ranks}

    def expected_of(self, key: Key, ranks: Iterable[int]) -> dict[int, Tensor] | None:
        """By rank, what it should hold of a parameter's tensor; None where one device has not all of it."""
        vector, present = self._vector(key.step, key.phase, "")
        if any(not bool(self.layout.take(present, key.name, rank).all()) for rank in ranks):
            return None
        return {rank: self.layout.take(vector, key.name, rank) for rank in ranks}

    def reference_has(self, key: Key) -> bool:
        """Whether the reference has the tensor, or all those whose elements a candidate's parameter holds."""
        name, _, suffix = key.name.partition("/")
        if key.phase not in OF_PARAMETERS or name not in self.layout.element_index:
            return key in self.reference.tensors
        whole = [self._reference_key(key.step, key.phase, part, suffix) for part in self.layout.spans(name)]
        return all(one in self.reference.tensors for one in whole)

    def fault_of_missing(self, key: Key) -> Cause | None:
        """What is the matter with a gradient that is missing on a rank that holds elements of its parameter."""
        lacking = [records for rank, records in enumerate(self.ranks) if self._holds(key.name, rank)]
        missing = any(key in records.missing for records in lacking)
        frozen = any(key in records.frozen for records in lacking)
        if not missing and not frozen:
            return None
        whole = [self._reference_key(key.step, key.phase, name, "") for name in self.layout.spans(key.name)]
        if any(one in self.reference.tensors for one in whole):
            if not frozen and self._has_stand_in(key):
                return None
            return Cause(kind=CauseKind.FROZEN if frozen else CauseKind.MISSING_GRADIENT)
        if key.phase is not Phase.GRADIENT:
            return None
        if frozen and any(one in self.reference.missing for one in whole):
            return Cause(kind=CauseKind.FROZEN)
        if missing and any(one in self.reference.frozen for one in whole):
            return Cause(kind=CauseKind.UNFROZEN)
        return Cause(kind=CauseKind.NO_GRADIENT) if missing and not self._is_reached(key) else None

    def _holds(self, name: str, rank: int) -> bool:
        """Whether a rank holds elements of a parameter that are no padding."""
        element_index = self.layout.element_index.get(name, {})
        return rank not in element_index or bool((element_index[rank] != PADDING).any())

    def _has_stand_in(self, key: Key) -> bool:
        """Whether parts of flat buffers hold each element's gradient, which is compared there (ZeRO's second stage)."""
        if key.name not in self.layout.state.names:
            return False
        at = (key.step, key.phase)
        if at not in self._stand_ins:
            held = torch.zeros(self.layout.state.length, dtype=torch.bool)
            for name, ranks in self.layout.element_index.items():
                for rank in ranks if self.layout.is_flat(name) else ():
                    if self._reference_key(*at, name, "") in self.ranks[rank].tensors:
                        self.layout.put(held, name, rank, True)
            self._stand_ins[at] = held
        return bool(self._stand_ins[at][self.layout.state.span(key.name)].all())

    def _is_reached(self, key: Key) -> bool:
        """Whether a parameter has a gradient on one device in some step; after the first step it has been told."""
        if key.step:
            return True
        names = self.layout.spans(key.name)
        return any(one.phase is key.phase and one.name in names for one in self.reference.tensors)

    def number_elements(self, key: Key) -> dict[int, Tensor] | None:
        """By rank, each element's number in the full activation, int64; None where its layout cannot be inferred."""
        if not self._is_called_alike(key):
            return None
        whole = self.reference.tensors[key].values
        parts = {rank: one.tensors[key].values for rank, one in enumerate(self.ranks) if key in one.tensors}
        placed = find_placement(parts, whole, self.axes, find_rows(self.layout, key.name, self.axes))
        if placed is None or not placed.certain:
            return None
        return placed.parts_of(torch.arange(whole.numel()).view(whole.shape))

    def covers(self, key: Key) -> bool:
        """Whether the ranks together hold every element of one of the reference's tensors of parameters.

        A gradient that a rank reports as missing counts as held here: it is a finding of its own.
        """
        name, _, suffix = key.name.partition("/")
        if name not in self.layout.state.names:
            return True
        held = self._held(key.step, key.phase, suffix)
        return bool(held[self.layout.state.span(name)].all())

    def _held(self, step: int, phase: Phase, suffix: str) -> Tensor:
        if (step, phase, suffix) not in self._coverage:
            held = torch.zeros(self.layout.state.length, dtype=torch.bool)
            for name, ranks in self.layout.element_index.items():
                key = self._reference_key(step, phase, name, suffix)
                for rank in ranks:
                    records = self.ranks[rank]
                    if key in records.tensors or key in records.missing or key in records.frozen:
                        self.layout.put(held, name, rank, True)
            self._coverage[step, phase, suffix] = held
        return self._coverage[step, phase, suffix]

    def _of_parameter(self, key: Key, here: Mapping[int, Recorded]) -> Aligned:
        name, _, suffix = key.name.partition("/")
        held = {}
        for rank, recorded in here.items():
            index = self._index_of(name, rank, recorded.shape)
            part, full = self._part_of(name, rank, recorded.shape), self.reference.tensors.get(key)
            if part is not None and full is not None:
                expected = full.part(part)
                held[rank] = ActualExpected(actual=recorded.values, expected=expected, element_index=index)
                continue
            vector, present = self._vector(key.step, key.phase, suffix)
            kept = index != PADDING
            at = index.clamp(min=0)
            if not bool((present[at] | ~kept).all()):
                return Aligned(held={}, involved=[], fault=Cause(kind=self._kind_of_extra(key)))
            held[rank] = ActualExpected(
                actual=recorded.values,
                expected=torch.where(kept, vector[at], 0),
                element_index=index,
            )
        whole = [self._reference_key(key.step, key.phase, part, suffix) for part in self.layout.spans(name)]
        of_reference = [self.reference.tensors[one] for one in whole if one in self.reference.tensors]
        return Aligned(held=held, involved=[*here.values(), *of_reference])

    def _index_of(self, name: str, rank: int, shape: torch.Size) -> Tensor:
        """Which elements of the full state a rank holds of a parameter, or of its state, that it holds in this shape.

        A rank that held a shard before the first step may hold the whole later: FSDP2 leaves a frozen parameter whole
        that no gradient passes through.
        """
        index = self.layout.element_index[name][rank]
        if not self._is_whole_later(name, index.shape, shape):
            return index
        span = self.layout.state.span(name)
        return torch.arange(span.start, span.stop).view(shape)

    def _part_of(self, name: str, rank: int, shape: torch.Size) -> Part | None:
        """The same as a part of the reference's parameter of this name; None if it is none."""
        if self._is_whole_later(name, self.layout.element_index[name][rank].shape, shape):
            return Part.whole(shape)
        return self.layout.parts.get(name, {}).get(rank)

    def _is_whole_later(self, name: str, before: torch.Size, shape: torch.Size) -> bool:
        return shape != before and name in self.layout.state.names and shape == self.layout.state.shape(name)

    def _kind_of_extra(self, key: Key) -> CauseKind:
        names = self.layout.spans(key.name.partition("/")[0])
        whole = [self._reference_key(key.step, Phase.GRADIENT, name, "") for name in names]
        if key.phase is Phase.STATE and any(one in self.reference.tensors for one in whole):
            return CauseKind.NOT_IN_REFERENCE  # it trains on one device too, without such a state
        frozen = any(one in self.reference.frozen for one in whole)
        return CauseKind.UNFROZEN if frozen and key.phase is Phase.GRADIENT else CauseKind.EXTRA_GRADIENT

    def _vector(self, step: int, phase: Phase, suffix: str) -> tuple[Tensor, Tensor]:
        """The reference's tensors of one kind as a vector like the full state, and which of its elements exist."""
        if (step, phase, suffix) not in self._vectors:
            keys = {name: self._reference_key(step, phase, name, suffix) for name in self.layout.state.names}
            found = {name: self.reference.tensors.get(key) for name, key in keys.items()}
            values = {name: recorded.values if recorded else None for name, recorded in found.items()}
            marks = {name: None if value is None else torch.ones_like(value) for name, value in values.items()}
            state = self.layout.state
            self._vectors[step, phase, suffix] = (state.flatten(values), state.flatten(marks).bool())
        return self._vectors[step, phase, suffix]

    @staticmethod
    def _reference_key(step: int, phase: Phase, name: str, suffix: str) -> Key:
        return Key(step, phase, f"{name}/{suffix}" if suffix else name)


def align(both: BothSides, layout: Layout, chosen: Callable[[SideRecord], Records]) -> Alignment:
    """One run of both sides: what is chosen of each side's records."""
    return Alignment(
        reference=chosen(both.reference),
        ranks=[chosen(side) for side in both.ranks],
        layout=layout,
        axes=both.axes,
        own_training=both.own_training,
    )
