"""Outcomes: what one trial shows of each tensor, every rank's elements compared with the reference's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from shardproof.exact import VOID
from shardproof.proving.cause import Cause, CauseKind, Part
from shardproof.proving.findings import Unbounded
from shardproof.proving.judging.beside import explain_beside
from shardproof.proving.judging.causes import axes_of_sum, explain
from shardproof.proving.judging.closeness import Exact
from shardproof.proving.judging.difference import Difference
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.judging.marks import Followed
from shardproof.proving.judging.places import locate
from shardproof.proving.records import ACTIVATIONS, OF_PARAMETERS, RENEWED, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from shardproof.proving.axes import Axes
    from shardproof.proving.judging.alignment import ActualExpected, Aligned, Alignment
    from shardproof.proving.records import Records

T = TypeVar("T")

_GRADIENTS = (Phase.OUTPUT_GRADIENT, Phase.INPUT_GRADIENT, Phase.GRADIENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidHeld:
    """Which elements of what a rank holds come of a division by zero, so that a trial says nothing of them.

    Attributes:
        actual: on the rank: booleans of its shape.
        expected: in the reference.
    """

    actual: Tensor
    expected: Tensor

    @property
    def either(self) -> Tensor:
        """On either side."""
        return self.actual | self.expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one trial shows of one tensor.

    Attributes:
        equal: every element that any rank holds, and that is not void on either side, is the reference's.
        void: by rank, the elements that the trial says nothing of; ranks without any are left out.
        chance: a bound on the probability that an element of another formula agrees, if it is not void; 1 where none is
            derived.
        unbounded: why none is derived; None where one is.
        cause: a relation that explains the difference; None if there is no difference or no known relation.
        place: where it differs, as a cause, where no known relation of what the ranks hold explains it; else None.
        ranks: where it differs.
        differing: how many elements differ, over all ranks, of `elements`.
        elements: how many elements there are, over all ranks.
        informative: elements of the reference that are not zero, over all ranks.
        blind: ranks, and dim-0 slices of tensors of three and more dims, whose expected values are all zero.
        constant: the reference's elements are the same numbers whatever the parameters are.
        partial_over: of an activation: the axes over which the sum of what the ranks hold is right, although what each
            holds is not. It may be reduced later; if it is not, what is computed from it differs.
    """

    equal: bool
    void: Mapping[int, VoidHeld] = field(default_factory=dict)
    chance: float = 1.0
    unbounded: Unbounded | None = None
    cause: Cause | None = None
    place: Cause | None = None
    ranks: tuple[int, ...] = ()
    differing: int = 0
    elements: int = 0
    informative: int = 0
    blind: frozenset[Part] = frozenset()
    constant: bool = False
    partial_over: tuple[str, ...] = ()

    @property
    def partial(self) -> bool:
        """The ranks hold parts of a sum."""
        return bool(self.partial_over)


def compare_exactly(alignment: Alignment, prime: int) -> dict[Key, Outcome]:
    """The outcome of one exact run for each tensor on either side, in the candidate's order.

    After each step void elements of parameters and optimizer state were drawn anew. Where they were void on one side
    alone, the sides part there for no fault of theirs, and the trial says nothing of later steps.
    """
    wrong = Followed()
    parted: set[int] = set()

    def compare(key: Key, aligned: Aligned) -> Outcome:
        if any(step < key.step for step in parted):
            return _void_outcome(aligned)
        outcome = _outcome(key, aligned, prime, alignment.axes)
        if key.phase in RENEWED and any(not torch.equal(v.actual, v.expected) for v in outcome.void.values()):
            parted.add(key.step)
        if outcome.equal:
            return outcome
        if not wrong.leads_to(key):  # else it is no first cause
            beside = explain_beside(alignment, key, aligned, Exact(prime))
            outcome = outcome if beside is None else replace(outcome, cause=beside)
        if not (alignment.own_training and key.phase in ACTIVATIONS):  # an activation may be a rank's own share
            wrong.add(key)
        return outcome

    return walk(
        alignment,
        compare,
        lambda _key, fault: Outcome(equal=fault.kind is CauseKind.NO_GRADIENT, cause=fault),
    )


def walk(
    alignment: Alignment, compared: Callable[[Key, Aligned], T], faulty: Callable[[Key, Cause], T]
) -> dict[Key, T]:
    """What is said of each tensor on either side, in the order in which the candidate computes them.

    Args:
        alignment: of the two sides.
        compared: is given a tensor that both sides have.
        faulty: is given a tensor whose values cannot be compared, and why.
    """
    reference, ranks = alignment.reference, alignment.ranks
    unreported = _unreported(alignment)
    found: dict[Key, T] = {}
    for key in dict.fromkeys(key for records in ranks for key in (*records.missing, *records.frozen)):
        fault = alignment.fault_of_missing(key)
        if fault:
            found[key] = faulty(key, fault)
    for key in losses_first(_in_order(reference, ranks)):
        if key in found:
            continue  # missing on another rank, whatever this one holds
        if key.phase is Phase.BUFFER and (key not in reference.tensors or _lacking(key, alignment)):
            continue  # one of the candidate's own, see `own_buffers`; or it is missing on another rank
        aligned = alignment.of(key)
        if aligned is not None:
            found[key] = faulty(key, aligned.fault) if aligned.fault else compared(key, aligned)
    clipped = {key.step for records in ranks for key in records.tensors if key.phase is Phase.CLIPPED}
    for key in reference.tensors:
        if key.phase is Phase.NORM and key.step in clipped:
            continue  # the user's own clipping need not report its norm: all that follows from it is compared
        if key.phase in (Phase.LOSS, Phase.NORM) and key not in found:
            found[key] = faulty(key, Cause(kind=CauseKind.NOT_COMPUTED))
        elif key.phase in unreported:
            continue
        elif key.phase is Phase.BUFFER and (lacking := _lacking(key, alignment)):
            found[key] = faulty(key, Cause(kind=CauseKind.BUFFER_GONE, ranks=lacking))
        elif key.phase in OF_PARAMETERS and not alignment.covers(key):  # even if what some rank holds is right
            found[key] = faulty(key, Cause(kind=CauseKind.NOT_COVERED))
    return found


def _in_order(reference: Records, ranks: Sequence[Records]) -> list[Key]:
    """The keys of all ranks in execution order.

    Ranks with keys of their own, stages of a pipeline, take turns that no rank's records tell: what the reference has
    too is in its order, and what it has not comes after what is before it on its rank.
    """
    keys = dict.fromkeys(key for records in ranks for key in records.tensors)
    if all(len(records.tensors) == len(keys) for records in ranks):
        return list(keys)
    places = {key: place for place, key in enumerate(reference.tensors)}
    order: dict[Key, tuple[int, int, int]] = {}
    for rank, records in enumerate(ranks):
        place = -1
        for number, key in enumerate(records.tensors):
            place = places.get(key, place)
            order.setdefault(key, (place, rank, number))
    return sorted(keys, key=order.__getitem__)


def losses_first(keys: Iterable[Key]) -> list[Key]:
    """The keys with each step's loss before its gradients: a training of the user's own may report it after them."""
    found = list(keys)
    for loss in [key for key in found if key.phase is Phase.LOSS]:
        steps_gradients = (at for at, key in enumerate(found) if key.step == loss.step and key.phase in _GRADIENTS)
        first = next(steps_gradients, len(found))
        if first < found.index(loss):
            found.remove(loss)
            found.insert(first, loss)
    return found


def _unreported(alignment: Alignment) -> frozenset[Phase]:
    """What a training of the user's own need not report, because its norm and updates imply it.

    Optimizer state is compared if it reports any: without any it is an update by hand (`run.record_update(None)`).
    """
    if not alignment.own_training:
        return frozenset()
    reported = {key.phase for records in alignment.ranks for key in records.tensors}
    unasked = {Phase.CLIPPED, Phase.STATE}
    if Phase.UPDATE not in reported:
        unasked.add(Phase.BUFFER)  # recorded with an update; that this one is missing is said of the parameters
    return frozenset(unasked) - reported


def _lacking(key: Key, alignment: Alignment) -> tuple[int, ...]:
    """The ranks that have not recorded a buffer and should have.

    In a training of the user's own that is a rank that holds the buffer's module: stages hold theirs alone. If no rank
    has recorded it, it is every rank.
    """
    ranks = alignment.ranks
    lacking = [rank for rank, records in enumerate(ranks) if key not in records.tensors]
    if not alignment.own_training or len(lacking) == len(ranks):
        return tuple(lacking)
    module = key.name.rpartition(".")[0]
    return tuple(rank for rank in lacking if module in ranks[rank].modules)


def own_buffers(reference: Records, ranks: Sequence[Records]) -> tuple[str, ...]:
    """The names of the buffers that only the candidate has: there is nothing to compare them with."""
    names = {key.name for records in ranks for key in records.tensors if key.phase is Phase.BUFFER}
    return tuple(sorted(names - {key.name for key in reference.tensors if key.phase is Phase.BUFFER}))


def cause_of_shape(aligned: Aligned) -> Cause | None:
    """The cause if a rank's tensor is not of the expected shape."""
    one = aligned.misshapen
    if one is None:
        return None
    return Cause(kind=CauseKind.MISSHAPEN, shapes=(tuple(one.actual.shape), tuple(one.expected.shape)))


def find_blind(held: Mapping[int, ActualExpected]) -> frozenset[Part]:
    """Ranks, or dim-0 slices of tensors of three and more dims, whose expected values are all zero; padding aside."""
    found = set()
    for rank, one in held.items():
        if int(one.expected.count_nonzero()) == one.expected.numel():
            continue
        index = one.element_index
        real = torch.ones_like(one.expected, dtype=torch.bool) if index is None else index != PADDING
        seen = (one.expected != 0) & real
        if bool(real.any()) and not bool(seen.any()):
            found.add(Part(rank=rank))
        elif seen.ndim > 2:
            empty = real.flatten(1).any(1) & ~seen.flatten(1).any(1)
            found |= {Part(rank=rank, index=index) for index in empty.nonzero().flatten().tolist()}
    return frozenset(found)


def drop_cancelled(held: Mapping[int, ActualExpected], parts: frozenset[Part], limit: float) -> frozenset[Part]:
    """The parts without those that are rounding noise: not all zero, and nowhere above the limit.

    What cancels in exact arithmetic is noise on both sides, and on one of them it may be 0 by luck.

    Args:
        held: by rank, in ordinary arithmetic, on both sides.
        parts: as `find_blind` finds them in exact arithmetic.
        limit: of the magnitude.
    """

    def is_noise(part: Part) -> bool:
        sides = (held[part.rank].actual, held[part.rank].expected)
        magnitudes = [float((side if part.index is None else side[part.index]).abs().max()) for side in sides]
        return any(magnitudes) and all(magnitude <= limit for magnitude in magnitudes)  # False where there is NaN

    return frozenset(part for part in parts if part.rank in held and not is_noise(part))


def _find_void(held: Mapping[int, ActualExpected]) -> dict[int, VoidHeld]:
    found = {}
    for rank, one in held.items():
        # The largest number is found without a mask in memory, and VOID is larger than any residue.
        if any(values.numel() and int(values.max()) >= VOID for values in (one.actual, one.expected)):
            found[rank] = VoidHeld(actual=one.actual == VOID, expected=one.expected == VOID)
    return {rank: one for rank, one in found.items() if bool(one.either.any())}


def _void_outcome(aligned: Aligned) -> Outcome:
    """The outcome of a trial that says nothing of a tensor."""
    every = {rank: torch.ones_like(one.actual, dtype=torch.bool) for rank, one in aligned.held.items()}
    return Outcome(equal=True, void={rank: VoidHeld(actual=mask, expected=mask) for rank, mask in every.items()})


def _count_differing(one: ActualExpected) -> int:
    if torch.equal(one.actual, one.expected):
        return 0
    return int((one.actual != one.expected).sum())


def _outcome(key: Key, aligned: Aligned, prime: int, axes: Axes) -> Outcome:
    phase = key.phase
    chance = max(one.chance for one in aligned.involved)
    reason = next((one.no_bound for one in aligned.involved if one.no_bound is not None), None)
    misshapen = cause_of_shape(aligned)
    if misshapen:
        return Outcome(equal=False, chance=chance, cause=misshapen, ranks=tuple(aligned.held))
    void = _find_void(aligned.held)
    held = {rank: one.judged for rank, one in aligned.held.items()} if void else aligned.held
    difference = Difference(phase=phase, held=held, axes=axes, closeness=Exact(prime))
    differing = {rank: _count_differing(one) for rank, one in held.items()}
    activation = phase in ACTIVATIONS
    partial_over = axes_of_sum(difference) if activation and any(differing.values()) else ()
    if partial_over:
        differing = dict.fromkeys(differing, 0)
    wrong = tuple(rank for rank, count in differing.items() if count)
    cause = explain(difference) if wrong else None
    return Outcome(
        equal=not wrong,
        void=void,
        chance=chance,
        unbounded=None if reason is None else Unbounded(reason=reason, at=key),
        cause=cause,
        place=locate(difference) if wrong and cause is None else None,
        ranks=wrong,
        differing=sum(differing.values()),
        elements=sum(one.expected.numel() for one in held.values()),
        informative=sum(int(one.expected.count_nonzero()) for one in held.values()),
        blind=frozenset() if activation else find_blind(held),  # no activation is vacuous
        constant=chance == 0.0,
        partial_over=partial_over,
    )
