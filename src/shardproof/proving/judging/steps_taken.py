"""Causes of a wrong update: the step that was taken, from the parameter before it, beside the step of one device.

An update that is a first cause has a right gradient. So of a step that is k times one device's, the optimizer is at
fault, or what is done to the gradient after it was recorded. A relation holds on every element that some rank has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.judging.alignment import ActualExpected
from shardproof.proving.judging.causes import common_factor
from shardproof.proving.judging.closeness import is_equal
from shardproof.proving.judging.difference import Difference
from shardproof.proving.judging.norms import not_clipped
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from shardproof.proving.cause import Cause
    from shardproof.proving.judging.alignment import Aligned, Alignment
    from shardproof.proving.judging.closeness import Closeness


def explain_step(alignment: Alignment, key: Key, aligned: Aligned, closeness: Closeness) -> Cause | None:
    """The cause of a wrong updated parameter; None if no known relation explains it.

    By accident a step of n elements is a small multiple of the right one in about 5,000 / p**n of draws, and 0 times it
    in 1 / p**n.

    Args:
        alignment: of a run that is not cut, or whose parameters are.
        key: of the updated parameter.
        aligned: what the ranks hold of it.
        closeness: how its values are compared.
    """
    if key.phase is not Phase.UPDATE:
        return None
    steps = _find_steps(aligned, alignment.starts_of(key), closeness)
    if steps is None:
        return None
    difference = Difference(phase=key.phase, held=steps, axes=alignment.axes, closeness=closeness)
    factor = common_factor(difference)
    if factor is not None and not factor:
        return difference.cause(CauseKind.NEVER_STEPPED, mend=Mend.STEP_ALL)
    if not closeness.approximate and _is_unclipped(alignment, key, difference):
        return not_clipped(closeness)
    if factor is None:
        return None
    return difference.cause(CauseKind.STEP_SCALED, factor=factor, mend=Mend.STEP_ALIKE)


def _find_steps(
    aligned: Aligned, starts: Mapping[int, Tensor], closeness: Closeness
) -> dict[int, ActualExpected] | None:
    """By rank, the step that it takes and should take; None where some element of it is void or not known."""
    found = {}
    for rank, one in aligned.held.items():
        start = starts.get(rank)
        if start is None or start.shape != one.actual.shape or one.judged is not one:
            return None
        before = closeness.numbers(start)
        found[rank] = ActualExpected(
            actual=closeness.canonical(closeness.numbers(one.actual) - before),
            expected=closeness.canonical(closeness.numbers(one.expected) - before),
            element_index=one.element_index,
        )
    return found


def _is_unclipped(alignment: Alignment, key: Key, steps: Difference) -> bool:
    """Whether the steps are to one device's as the gradient is to the clipped one, element by element."""
    gradient, clipped = (
        alignment.expected_of(Key(key.step, phase, key.name), steps.held) for phase in (Phase.GRADIENT, Phase.CLIPPED)
    )
    if gradient is None or clipped is None:
        return False
    for rank in steps.wrong:
        one = steps.held[rank]
        unclipped = steps.closeness.canonical(one.expected * gradient[rank])
        if not bool(clipped[rank].any()) or not is_equal(
            steps.closeness, steps.closeness.canonical(one.actual * clipped[rank]), unclipped
        ):
            return False
    return True
