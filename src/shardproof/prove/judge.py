"""One trial's outcome for each tensor: what every rank holds against what the reference says it should."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.prove.causes import Held, explain
from shardproof.prove.layout import PADDING
from shardproof.prove.records import ACTIVATIONS, OF_PARAMETERS, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardproof.prove.layout import Layout
    from shardproof.prove.records import Recorded, Records


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one tensor in one trial.

    Attributes:
        equal: every element that any rank holds is the reference's.
        void: a division by zero on either side: the trial says nothing if they differ.
        chance: a bound on the probability that different formulas agree; 1 where none is derived.
        cause: in words, if a relation explains the difference.
        ranks: where it differs.
        differing: elements that differ, over all ranks, of `elements`.
        informative: elements of the reference that are not zero.
    """

    equal: bool
    void: bool = False
    chance: float = 1.0
    cause: str = ""
    ranks: tuple[int, ...] = ()
    differing: int = 0
    elements: int = 0
    informative: int = 0


@dataclass(slots=True, kw_only=True)
class Judge:
    """Compares the ranks' records with the reference's, all of one exact run under one prime."""

    reference: Records
    ranks: Sequence[Records]
    layout: Layout
    prime: int
    _vectors: dict[tuple[int, Phase, str], Tensor] = field(default_factory=dict)

    def outcomes(self) -> dict[Key, Outcome]:
        """For each tensor on either side, in the candidate's order; then what only the reference has."""
        found: dict[Key, Outcome] = {}
        for key in dict.fromkeys(key for records in self.ranks for key in records.missing):
            if key not in self.reference.missing:
                found[key] = Outcome(equal=False, cause="the parameter has a gradient on one device and none here")
        for key in dict.fromkeys(key for records in self.ranks for key in records.tensors):
            outcome = self._of(key)
            if outcome is not None:
                found[key] = outcome
        for key in self.reference.tensors:
            if key.phase in (Phase.LOSS, Phase.NORM) and key not in found:
                found[key] = Outcome(equal=False, cause="the candidate does not compute it")
        return found

    def _of(self, key: Key) -> Outcome | None:
        here = {rank: records.tensors[key] for rank, records in enumerate(self.ranks) if key in records.tensors}
        if key.phase in OF_PARAMETERS:
            return self._of_parameter(key, here)
        expected = self.reference.tensors.get(key)
        if expected is None:
            return None if key.phase in ACTIVATIONS else Outcome(equal=False, cause="the reference has no such tensor")
        if key.phase in ACTIVATIONS:
            return self._of_activation(here, expected)
        held = {rank: Held(actual=one.values, expected=expected.values) for rank, one in here.items()}
        return self._outcome(held, [*here.values(), expected])

    def _of_parameter(self, key: Key, here: Mapping[int, Recorded]) -> Outcome:
        name, _, suffix = key.name.partition("/")
        vector = self._vector(key.step, key.phase, suffix)
        held = {}
        for rank, recorded in here.items():
            places = self.layout.places[name][rank]
            kept = places != PADDING
            expected = vector[places.clamp(min=0)]
            if bool((expected[kept] == ABSENT).any()):
                return Outcome(equal=False, cause="the parameter has a gradient here and none on one device")
            held[rank] = Held(actual=torch.where(kept, recorded.values, 0), expected=torch.where(kept, expected, 0))
        of_reference = [
            self.reference.tensors[k]
            for k in (Key(key.step, key.phase, f"{n}/{suffix}" if suffix else n) for n in self.layout.spans(name))
            if k in self.reference.tensors
        ]
        return self._outcome(held, [*here.values(), *of_reference])

    def _vector(self, step: int, phase: Phase, suffix: str) -> Tensor:
        """The reference's tensors of one kind, laid out as the full state."""
        if (step, phase, suffix) not in self._vectors:
            found = {
                name: self.reference.tensors.get(Key(step, phase, f"{name}/{suffix}" if suffix else name))
                for name in self.layout.state.names
            }
            self._vectors[step, phase, suffix] = self.layout.state.flatten(
                {name: recorded.values if recorded else None for name, recorded in found.items()}, absent=ABSENT
            )
        return self._vectors[step, phase, suffix]

    def _of_activation(self, here: Mapping[int, Recorded], expected: Recorded) -> Outcome | None:
        whole, parts = expected.values, [one.values for one in here.values()]
        involved = [*here.values(), expected]
        if all(part.shape == whole.shape for part in parts):
            total = torch.stack(parts).sum(0)
            if bool(((total - whole) % self.prime == 0).all()):
                # Partial, reduced later or not: whoever uses it unreduced is the one that parts.
                return self._outcome({0: Held(actual=whole, expected=whole)}, involved)
            held = {rank: Held(actual=one.values, expected=whole) for rank, one in here.items()}
            return self._outcome(held, involved)
        for dim in range(whole.ndim):
            if _fits(parts, whole, dim):
                wanted = whole.split([part.shape[dim] for part in parts], dim)
                held = {
                    rank: Held(actual=one.values, expected=want)
                    for (rank, one), want in zip(here.items(), wanted, strict=True)
                }
                return self._outcome(held, involved)
        return None  # laid out in a way that only the candidate knows; its users will show what it was

    def _outcome(self, held: Mapping[int, Held], involved: Sequence[Recorded]) -> Outcome:
        void = any(one.void for one in involved)
        chance = max(one.chance for one in involved)
        misshapen = [one for one in held.values() if one.actual.shape != one.expected.shape]
        if misshapen:
            one = misshapen[0]
            cause = f"of shape {tuple(one.actual.shape)} instead of {tuple(one.expected.shape)}"
            return Outcome(equal=False, void=void, chance=chance, cause=cause, ranks=tuple(held))
        differing = {rank: int((one.actual != one.expected).sum()) for rank, one in held.items()}
        wrong = tuple(rank for rank, count in differing.items() if count)
        return Outcome(
            equal=not wrong,
            void=void,
            chance=chance,
            cause=explain(held, self.prime) if wrong else "",
            ranks=wrong,
            differing=sum(differing.values()),
            elements=sum(one.expected.numel() for one in held.values()),
            informative=sum(int(one.expected.count_nonzero()) for one in held.values()),
        )


# No residue: representatives have at most 23 bits.
ABSENT = 1 << 40


def _fits(parts: list[Tensor], whole: Tensor, dim: int) -> bool:
    rest = [(*part.shape[:dim], *part.shape[dim + 1 :]) for part in parts if part.ndim == whole.ndim]
    return (
        len(rest) == len(parts)
        and all(shape == (*whole.shape[:dim], *whole.shape[dim + 1 :]) for shape in rest)
        and sum(part.shape[dim] for part in parts) == whole.shape[dim]
    )
