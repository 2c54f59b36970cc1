"""Causes of a wrong loss: a number alone tells little, so the gradient of what it is computed from is looked at.

The loss's operand is the last activation before it: the logits, say, which are right, or the loss would be no first
cause. The gradient of that operand shows for each position what the loss makes of it. All relations are of exact
arithmetic; each holds for every element, and by accident in no more than a few of p draws.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from shardproof.exact import VOID
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.judging.causes import missing_reduction
from shardproof.proving.judging.closeness import Exact, is_equal
from shardproof.proving.judging.difference import Difference
from shardproof.proving.records import GRADIENT_OF, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.judging.alignment import ActualExpected, Aligned, Alignment
    from shardproof.proving.judging.closeness import Closeness

_GRADIENTS = (Phase.OUTPUT_GRADIENT, Phase.INPUT_GRADIENT, Phase.GRADIENT)
# Of a rank's part of the classes: so many that two ratios among those that are no label agree.
_FEWEST_CLASSES = 4


def explain_loss(alignment: Alignment, key: Key, aligned: Aligned, closeness: Closeness) -> Cause | None:
    """The cause of a wrong loss; None if no known relation explains it.

    Args:
        alignment: of a run that is not cut.
        key: of the loss, or of a module's output that is one number.
        aligned: what the ranks hold of it.
        closeness: how values are compared; within noise nothing is told.
    """
    if key.phase not in (Phase.LOSS, Phase.OUTPUT) or not isinstance(closeness, Exact):
        return None
    if any(x.ndim or bool(x == VOID) for one in aligned.held.values() for x in (one.expected, one.actual)):
        return None
    operand = _find_operand(alignment, key)
    if operand is None:
        return None
    loss = _Loss(alignment=alignment, key=key, field=closeness, held=aligned.held, operand=operand)
    found = (relation(loss) for relation in _RELATIONS)
    return next((cause for cause in found if cause is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loss:
    """A wrong loss.

    Attributes:
        alignment: of the run.
        key: of the loss.
        field: the arithmetic.
        held: by rank, the loss and what it should be.
        operand: of the activation that it is computed from.
    """

    alignment: Alignment
    key: Key
    field: Exact
    held: Mapping[int, ActualExpected]
    operand: Key

    @property
    def gradient(self) -> Mapping[int, ActualExpected]:
        """By rank, of the operand; empty where it is not known, or void somewhere."""
        aligned = self.alignment.of(self.operand.gradient)
        held = {} if aligned is None or aligned.misshapen is not None else aligned.held
        return held if all(one.judged is one and one.actual.numel() for one in held.values()) else {}

    def is_right(self, aligned: Aligned) -> bool:
        """Whether all ranks hold what they should."""
        return aligned.fault is None and all(is_equal(self.field, x.actual, x.expected) for x in aligned.held.values())

    def off(self, one: ActualExpected) -> Tensor:
        """What a rank has too much, a row for each position."""
        return _rows(self.field.canonical(one.actual - one.expected))


def _find_operand(alignment: Alignment, loss: Key) -> Key | None:
    """The last activation before the loss that has a gradient on all ranks."""
    before: list[Key] = []
    for key in alignment.ranks[0].tensors:
        if key == loss:
            break
        before.append(key)
    for key in reversed(before):
        if key.step == loss.step and key.phase in GRADIENT_OF:
            of = alignment.reference.tensors.get(key.gradient)
            if of is not None and of.values.ndim and all(key.gradient in one.tensors for one in alignment.ranks):
                return key
    return None


def _rows(tensor: Tensor) -> Tensor:
    """A row for each position, of the last dim's elements."""
    return tensor.reshape(-1, tensor.shape[-1])


# The relations -----------------------------------------------------------------------------------------------------


def _of_own_maximum(loss: _Loss) -> Cause | None:
    """Each rank's exponentials are of its logits less a maximum of its own, and are added up as they are.

    The gradient of a cross-entropy is w (p - c): p the softmax, c the same on both sides. With a rank's exponentials e,
    p = e r on one device, r a number for each position and rank, and p' = e / s here, if s is the sum of e over all
    ranks. Among the classes that are no label, differences of p are those of e times r; and what a rank has too much is
    w (1 / s - r) e. So 1 / s is told by each rank, and they must agree.
    """
    found: list[Tensor] = []
    maxima: list[Tensor] = []
    for rank, one in loss.gradient.items():
        of = _last_maximum(loss, rank)
        if of is None or not of[1].ndim or of[1].numel() != one.actual.numel():
            return None
        e, right, off = _rows(of[1]), _rows(one.expected), loss.off(one)
        if e.shape != right.shape or e.shape[1] < _FEWEST_CLASSES or not bool(e.all()):
            return None
        too_much = loss.field.quotient(off, e)
        if not torch.equal(too_much, too_much[:, :1].expand_as(too_much)):
            return None
        ratio = _common_ratio(loss, right, e)
        if ratio is None:
            return None
        found.append(loss.field.canonical(too_much[:, 0] + ratio))
        maxima.append(of[0].reshape(-1))
    if len(found) < 2 or not bool(found[0].any()) or any(not torch.equal(one, found[0]) for one in found):
        return None
    if all(torch.equal(one, maxima[0]) for one in maxima):
        return None
    return Cause(kind=CauseKind.OWN_MAXIMUM, mend=Mend.MAXIMUM_OVER_RANKS)


def _last_maximum(loss: _Loss, rank: int) -> tuple[Tensor, Tensor] | None:
    """The last maximum that a rank subtracts before the loss, and the exponentials of the difference."""
    tensors, found = loss.alignment.ranks[rank].tensors, None
    for key, recorded in tensors.items():
        if key == loss.key:
            break
        function = key.name.rpartition("/")[2]
        if (key.step, key.phase, function) == (loss.key.step, Phase.INPUT, "maximum"):
            after = tensors.get(replace(key, phase=Phase.OUTPUT, name=f"{key.name.removesuffix(function)}exponentials"))
            found = None if after is None else (recorded.values, after.values)
    return found


def _common_ratio(loss: _Loss, right: Tensor, e: Tensor) -> Tensor | None:
    """By position, the ratio of differences of the gradient to those of e, which all classes but a label have.

    With the first or the second class as the one subtracted, one of which is no label.
    """
    chosen: list[Tensor] = []
    for pivot in (0, 1):
        others = [at for at in range(e.shape[1]) if at != pivot]
        differences = (loss.field.canonical(x[:, others] - x[:, pivot : pivot + 1]) for x in (right, e))
        ratios = loss.field.quotient(*differences)
        ordered = ratios.sort(1).values
        twice = ordered[:, 1:] == ordered[:, :-1]
        first = twice.long().argmax(1, keepdim=True)
        chosen.append(torch.where(twice.any(1), ordered.gather(1, first)[:, 0], VOID))
    ratio = torch.where(chosen[0] != VOID, chosen[0], chosen[1])
    return None if bool((ratio == VOID).any()) else ratio


def _of_own_count(loss: _Loss) -> Cause | None:
    """Each rank's gradient is off by a factor of its own, and the inverse factors have the mean 1, or the sum 1.

    So it is if each rank takes the mean over what it counts itself, and these means are averaged: the factor is the
    count of all ranks over N times its own; or over its own, where the average is only taken of the parameters'
    gradients.
    """
    inverse = []
    for one in loss.gradient.values():
        places = one.actual.reshape(-1).nonzero()
        if not len(places):
            return None
        at = int(places[0])
        factor = loss.field.quotient(one.expected.reshape(-1)[at], one.actual.reshape(-1)[at])
        if not torch.equal(loss.field.canonical(one.actual * factor), one.expected):
            return None
        inverse.append(int(factor))
    averaged = any((sum(inverse) - total) % loss.field.prime == 0 for total in (len(inverse), 1))
    if len(set(inverse)) < 2 or not averaged:
        return None
    return Cause(kind=CauseKind.OWN_COUNT, mend=Mend.COUNT_OVER_RANKS)


def _of_other_positions(loss: _Loss) -> Cause | None:
    """Some positions count on one side alone, or have another label; all others differ by one factor, if at all.

    A position that does not count has no gradient. Another label moves the gradient of two classes, of one by as much
    as of the other in the other direction, and at all positions alike.
    """
    pairs = [(_rows(one.actual), _rows(one.expected)) for one in loss.gradient.values()]
    factor = _most_common_ratio(loss, pairs)
    if factor is None:
        return None
    extra = lacking = relabelled = 0
    moved: set[int] = set()
    for actual, expected in pairs:
        here, there = actual.any(1), expected.any(1)
        extra, lacking = extra + int((here & ~there).sum()), lacking + int((there & ~here).sum())
        off = loss.field.canonical(actual - expected * factor)[here & there]
        off = off[off.any(1)]
        if bool((off.count_nonzero(1) != 2).any()) or bool((loss.field.canonical(off.sum(1)) != 0).any()):
            return None
        relabelled += len(off)
        moved |= set(off.abs()[off != 0].tolist())
    if len(moved) > 1 or not (extra or lacking or relabelled):
        return None
    kind = CauseKind.MORE_POSITIONS_COUNT if extra else CauseKind.FEWER_POSITIONS_COUNT
    if relabelled or (extra and lacking):
        kind = CauseKind.OTHER_LABELS
    return Cause(kind=kind, elements=extra + lacking + relabelled, mend=Mend.SAME_POSITIONS)


def _most_common_ratio(loss: _Loss, pairs: Sequence[tuple[Tensor, Tensor]]) -> int | None:
    """The ratio that most elements of the gradient have to what they should be, where both are not 0."""
    ratios = [torch.zeros(0, dtype=torch.int64)]
    for actual, expected in pairs:
        both = (actual != 0) & (expected != 0)
        ratios.append(loss.field.quotient(actual[both], expected[both]))
    values, counts = torch.cat(ratios).unique(return_counts=True)
    return int(values[counts.argmax()]) if len(values) and 2 * int(counts.max()) > int(counts.sum()) else None


def _of_own_part(loss: _Loss) -> Cause | None:
    """The mean of the ranks' losses is right, each counted as often as it has elements of the operand's last dim.

    So it is if each rank takes a mean over its own part of the classes, for label smoothing, say.
    """
    operand = loss.alignment.of(loss.operand)
    if operand is None or set(operand.held) != set(loss.held):
        return None
    whole = loss.alignment.reference.tensors[loss.operand].values.shape[-1]
    sizes = {rank: one.actual.shape[-1] for rank, one in operand.held.items()}
    if sum(sizes.values()) != whole or len({int(one.actual) for one in loss.held.values()}) < 2:
        return None
    total = sum(sizes[rank] * int(one.actual - one.expected) for rank, one in loss.held.items())
    if total % loss.field.prime:
        return None
    return Cause(kind=CauseKind.OWN_MEAN, mend=Mend.MEAN_OVER_RANKS)


def _of_own_tokens(loss: _Loss) -> Cause | None:
    """The first gradient of the step that is wrong is each rank's own, and its mean along data axes is right.

    So it is of a part of the loss that each rank computes from its own tokens where one device has those of all.
    """
    first = next((one for one in _gradients_of(loss) if not loss.is_right(one[1])), None)
    if first is None or first[1].fault is not None or first[1].misshapen is not None:
        return None
    key, aligned = first
    difference = Difference(phase=key.phase, held=aligned.held, axes=loss.alignment.axes, closeness=loss.field)
    cause = missing_reduction(difference)
    if cause is None or cause.kind is not CauseKind.MISSING_AVERAGE or key.name == loss.operand.name:
        return None
    return replace(cause, kind=CauseKind.OWN_TOKENS, parameter=key.name, mend=Mend.REDUCE_FIRST)


def _of_a_constant(loss: _Loss) -> Cause | None:
    """All gradients of the step are right: the loss is off by what none of them depends on, a constant."""
    if len({int(one.actual) for one in loss.held.values()}) > 1:
        return None
    right = [loss.is_right(aligned) for _, aligned in _gradients_of(loss)]
    return Cause(kind=CauseKind.OFF_BY_CONSTANT) if right and all(right) else None


def _gradients_of(loss: _Loss) -> Iterator[tuple[Key, Aligned]]:
    """What the ranks hold of each gradient of the step, in execution order."""
    for key in loss.alignment.ranks[0].tensors:
        aligned = loss.alignment.of(key) if key.step == loss.key.step and key.phase in _GRADIENTS else None
        if aligned is not None:
            yield key, aligned


_RELATIONS = (_of_own_maximum, _of_own_count, _of_other_positions, _of_own_part, _of_own_tokens, _of_a_constant)
