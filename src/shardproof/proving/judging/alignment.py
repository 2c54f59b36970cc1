"""Alignment: beside what each rank holds of a tensor, what the reference says it should hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.proving.judging.layout import PADDING
from shardproof.proving.judging.placement import place_activation
from shardproof.proving.judging.rows import find_rows
from shardproof.proving.records import ACTIVATIONS, OF_PARAMETERS, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardproof.proving.axes import Axes
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.records import Recorded, Records


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What one rank holds of a tensor and what it should hold: the same shape, unless the rank's is wrong.

    Attributes:
        actual: the rank's.
        expected: the reference's.
        places: of a parameter's tensor, where in the full state each element is; PADDING where it is none.
    """

    actual: Tensor
    expected: Tensor
    places: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aligned:
    """One tensor on all ranks.

    Attributes:
        held: by rank; empty where `fault` says why nothing can be laid side by side.
        involved: the records that it came from, of either side.
        fault: what is wrong, if it is not about values.
    """

    held: Mapping[int, Held]
    involved: Sequence[Recorded]
    fault: str = ""


@dataclass(slots=True, kw_only=True)
class Alignment:
    """The records of a reference and of the ranks of a candidate, of one run."""

    reference: Records
    ranks: Sequence[Records]
    layout: Layout
    axes: Axes
    own_training: bool = False  # in which a scalar that a module gives may be a rank's share of it
    _vectors: dict[tuple[int, Phase, str], tuple[Tensor, Tensor]] = field(default_factory=dict)
    _coverage: dict[tuple[int, Phase, str], Tensor] = field(default_factory=dict)

    def of(self, key: Key) -> Aligned | None:
        """The tensor, side by side; None for an activation laid out in a way that only the candidate knows."""
        here = {rank: records.tensors[key] for rank, records in enumerate(self.ranks) if key in records.tensors}
        if key.phase in OF_PARAMETERS:
            return self._of_parameter(key, here)
        expected = self.reference.tensors.get(key)
        if expected is None:
            if key.phase in ACTIVATIONS:
                return None
            return Aligned(held={}, involved=[], fault="the reference has no such tensor")
        involved = [*here.values(), expected]
        if key.phase in ACTIVATIONS:
            if (self.own_training or self.axes.shares > 1) and not expected.values.ndim:
                return None
            parts = {rank: one.values for rank, one in here.items()}
            rows = find_rows(self.layout, key.name, self.axes)
            wanted = place_activation(parts, expected.values, self.axes, rows)
            if wanted is None:
                return None
            held = {rank: Held(actual=part, expected=wanted[rank]) for rank, part in parts.items()}
            return Aligned(held=held, involved=involved)
        return Aligned(
            held={rank: Held(actual=one.values, expected=expected.values) for rank, one in here.items()},
            involved=involved,
        )

    def covers(self, key: Key) -> bool:
        """Whether the ranks together hold every element of a parameter's tensor of the reference's.

        A gradient that some rank reports as missing is a finding of its own.
        """
        name, _, suffix = key.name.partition("/")
        if name not in self.layout.state.names:
            return True
        held = self._held(key.step, key.phase, suffix)
        return bool(held[self.layout.state.span(name)].all())

    def _held(self, step: int, phase: Phase, suffix: str) -> Tensor:
        if (step, phase, suffix) not in self._coverage:
            held = torch.zeros(self.layout.state.length, dtype=torch.bool)
            for name, ranks in self.layout.places.items():
                key = self._reference_key(step, phase, name, suffix)
                for rank, places in ranks.items():
                    if key in self.ranks[rank].tensors or key in self.ranks[rank].missing:
                        held[places[places != PADDING]] = True
            self._coverage[step, phase, suffix] = held
        return self._coverage[step, phase, suffix]

    def _of_parameter(self, key: Key, here: Mapping[int, Recorded]) -> Aligned:
        name, _, suffix = key.name.partition("/")
        vector, present = self._vector(key.step, key.phase, suffix)
        held = {}
        for rank, recorded in here.items():
            places = self.layout.places[name][rank]
            kept = places != PADDING
            at = places.clamp(min=0)
            if not bool((present[at] | ~kept).all()):
                fault = "the parameter has a gradient here and none on one device"
                return Aligned(held={}, involved=[], fault=fault)
            held[rank] = Held(
                actual=torch.where(kept, recorded.values, 0),
                expected=torch.where(kept, vector[at], 0),
                places=places,
            )
        whole = [self._reference_key(key.step, key.phase, part, suffix) for part in self.layout.spans(name)]
        of_reference = [self.reference.tensors[one] for one in whole if one in self.reference.tensors]
        return Aligned(held=held, involved=[*here.values(), *of_reference])

    def _vector(self, step: int, phase: Phase, suffix: str) -> tuple[Tensor, Tensor]:
        """The reference's tensors of one kind, laid out as the full state, and which elements there are."""
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
