"""Causes of a wrong gradient norm, and of clipping that does nothing: sums of squares of the recorded gradients.

The square of a norm is compared with the sums of squares that a wrong norm is usually made of: of the ranks' own
gradients, held here and there. In exact arithmetic a root is an oracle, of which nothing follows; so a run records the
square of each norm too. A relation is named only if it holds on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from shardproof.exact import VOID
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.judging.closeness import is_equal
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from shardproof.proving.judging.alignment import Aligned, Alignment
    from shardproof.proving.judging.closeness import Closeness
    from shardproof.proving.records import Records


@dataclass(frozen=True, slots=True, kw_only=True)
class _Squares:
    """Sums of squares of one step, modulo the prime or in float64.

    Attributes:
        alignment: of the run.
        closeness: how sums are compared.
        norms: by rank, the square of the norm that it clips by.
        right: the square of the reference's.
        elements: by rank, what the squares of an element's gradients sum up to there, by the element's index in the
            full state.
        count: by rank, how often the rank holds each element.
        parameters: of the reference, by name.
    """

    alignment: Alignment
    closeness: Closeness
    norms: Mapping[int, float]
    right: float
    elements: Mapping[int, Tensor]
    count: Mapping[int, Tensor]
    parameters: Mapping[str, float]

    def holds(self, expected: Callable[[int], float]) -> bool:
        """Whether on every rank the square is what is expected there."""
        return all(self.closeness.same_square(square, expected(rank)) for rank, square in self.norms.items())

    def is_right(self, square: float) -> bool:
        """Whether it is the square of the right norm."""
        return self.closeness.same_square(square, self.right)

    def cause(self, kind: CauseKind, **parameters: object) -> Cause:
        """A cause of the wrong norm, as exact as the comparison."""
        return Cause(kind=kind, approximate=self.closeness.approximate, **parameters)  # type: ignore[arg-type]

    def group(self, rank: int, names: tuple[str, ...]) -> list[int]:
        """The ranks that differ from this one on these axes only."""
        return next(group for group in self.alignment.axes.groups(names) if rank in group)

    def sum_held(self, ranks: list[int]) -> float:
        """What these ranks hold, each replica by itself."""
        return sum(self.elements[rank].sum().item() for rank in ranks)

    def sum_once(self, ranks: list[int]) -> float:
        """What these ranks hold, each element once, of the first rank that holds it."""
        total: float = 0
        seen = torch.zeros_like(self.count[ranks[0]], dtype=torch.bool)
        for rank in ranks:
            new = (self.count[rank] > 0) & ~seen
            total += self.elements[rank][new].sum().item()
            seen |= new
        return total


def explain_clipping(alignment: Alignment, key: Key, aligned: Aligned, closeness: Closeness) -> Cause | None:
    """The cause of a wrong norm or of a wrong clipped gradient; None if no known relation explains it.

    Args:
        alignment: of a run without cuts.
        key: of the norm or of the clipped gradient.
        aligned: what the ranks hold of it.
        closeness: how values of the norm are compared; of a clipped gradient, those of the gradient before.
    """
    if key.phase is Phase.CLIPPED:
        gradient = alignment.of(Key(key.step, Phase.GRADIENT, key.name, key.call))
        unclipped = gradient is not None and all(
            rank in gradient.held and is_equal(closeness, one.actual, gradient.held[rank].expected)
            for rank, one in aligned.held.items()
        )
        return not_clipped(closeness) if unclipped else None
    squares = _collect(alignment, key, closeness) if key.phase is Phase.NORM else None
    if squares is None or not squares.is_right(squares.sum_once(list(squares.elements))):
        return None  # of wrong gradients the norm is wrong too
    found = (relation(squares) for relation in _RELATIONS)
    return next((cause for cause in found if cause is not None), None)


def not_clipped(closeness: Closeness) -> Cause:
    """The gradient is used as it was before clipping."""
    return Cause(kind=CauseKind.NOT_CLIPPED, approximate=closeness.approximate, mend=Mend.CLIP_WHAT_IS_APPLIED)


def _of_part(squares: _Squares) -> Cause | None:
    """The norm of what a rank holds itself, or of what ranks along some axes hold; the rest is never added."""
    ranks = range(squares.alignment.axes.size)
    for names in ((), *squares.alignment.axes.choices()):
        sums = {rank: squares.sum_once(squares.group(rank, names)) for rank in ranks}
        if not all(squares.is_right(one) for one in sums.values()) and squares.holds(sums.__getitem__):
            return squares.cause(CauseKind.NORM_OF_PART, axes=names)
    return None


def _with_replicas(squares: _Squares) -> Cause | None:
    """Ranks add up what they hold, and what several of them hold is counted several times."""
    for names in squares.alignment.axes.choices():
        sums = {rank: squares.sum_held(squares.group(rank, names)) for rank in squares.norms}
        if squares.holds(sums.__getitem__):
            return squares.cause(CauseKind.NORM_COUNTS_REPLICAS, axes=names)
    return None


def _without_shard(squares: _Squares) -> Cause | None:
    """One rank's own elements are left out."""
    for rank in squares.norms:
        others = [other for other in squares.elements if other != rank]
        if others and squares.holds(lambda _rank, others=others: squares.sum_once(others)):  # type: ignore[misc]
            return squares.cause(CauseKind.NORM_MISSES_SHARD, ranks=(rank,))
    return None


def _of_one_parameter(squares: _Squares) -> Cause | None:
    """One parameter is left out, or counted twice (as a tied one may be) or as often as there are ranks."""
    size = squares.alignment.axes.size
    for name, square in squares.parameters.items():
        for times in sorted({0, 2, size}):
            if square and squares.holds(lambda _rank, off=square * (times - 1): squares.right + off):  # type: ignore[misc]
                return squares.cause(
                    CauseKind.NORM_COUNTS_PARAMETER if times else CauseKind.NORM_MISSES_PARAMETER,
                    parameter=name,
                    factor=Fraction(times) if times else None,
                )
    return None


_RELATIONS = (_of_part, _with_replicas, _without_shard, _of_one_parameter)


def _square(records: Records, key: Key, closeness: Closeness) -> float | None:
    """Of the norm; None where it was not recorded."""
    if closeness.approximate:
        return records.tensors[key].values.double().square().item() if key in records.tensors else None
    return records.squares[key].item() if key in records.squares else None


def _collect(alignment: Alignment, key: Key, closeness: Closeness) -> _Squares | None:
    """The sums of squares of a step; None where some number is void, is none or was not recorded."""
    reported = {rank: _square(one, key, closeness) for rank, one in enumerate(alignment.ranks) if key in one.tensors}
    norms = {rank: square for rank, square in reported.items() if square is not None}
    right = _square(alignment.reference, key, closeness)
    if right is None or len(norms) < len(reported):
        return None
    state, elements, count = alignment.layout.state, {}, {}
    void = VOID in (right, *norms.values())
    for rank, records in enumerate(alignment.ranks):
        elements[rank] = closeness.squares(torch.zeros(state.length, dtype=torch.int64))
        count[rank] = torch.zeros(state.length, dtype=torch.int64)
        for one, recorded in records.tensors.items():
            if (one.step, one.phase) == (key.step, Phase.GRADIENT):
                index = alignment.layout.element_index[one.name][rank].reshape(-1)
                kept, values = index != PADDING, recorded.values.reshape(-1)
                void = void or bool((values == VOID).any())
                elements[rank].index_add_(0, index[kept], closeness.squares(values[kept]))
                count[rank].index_add_(0, index[kept], torch.ones_like(index[kept]))
    parameters = {
        one.name: closeness.squares(recorded.values).sum().item()
        for one, recorded in alignment.reference.tensors.items()
        if (one.step, one.phase) == (key.step, Phase.GRADIENT)
    }
    if void:
        return None
    return _Squares(
        alignment=alignment,
        closeness=closeness,
        norms=norms,
        right=right,
        elements=elements,
        count=count,
        parameters=parameters,
    )
