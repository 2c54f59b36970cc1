"""Causes of a wrong gradient norm, and of clipping that does nothing: sums of squares modulo the prime.

In exact arithmetic a root is an oracle, of which nothing follows; so a run records the square of each norm too. It is
compared with the sums of squares that a wrong norm is usually made of: of the ranks' own recorded gradients, held here
and there. A relation is named only if it holds on every rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch

from shardproof.exact import VOID
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.judging.layout import PADDING
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from shardproof.proving.judging.alignment import Aligned, Alignment


@dataclass(frozen=True, slots=True, kw_only=True)
class _Squares:
    """Sums of squares of one step, modulo the prime.

    Attributes:
        alignment: of the run.
        prime: of the run.
        norms: by rank, the square of the norm that it clips by.
        right: the square of the reference's.
        elements: by rank, what the squares of an element's gradients sum up to there, by the element's index in the
            full state.
        count: by rank, how often the rank holds each element.
        parameters: of the reference, by name.
    """

    alignment: Alignment
    prime: int
    norms: Mapping[int, int]
    right: int
    elements: Mapping[int, Tensor]
    count: Mapping[int, Tensor]
    parameters: Mapping[str, int]

    def holds(self, expected: Callable[[int], int]) -> bool:
        """Whether on every rank the square is what is expected there."""
        return all((square - expected(rank)) % self.prime == 0 for rank, square in self.norms.items())

    def group(self, rank: int, names: tuple[str, ...]) -> list[int]:
        """The ranks that differ from this one on these axes only."""
        return next(group for group in self.alignment.axes.groups(names) if rank in group)

    def sum_held(self, ranks: list[int]) -> int:
        """What these ranks hold, each replica by itself."""
        return sum(int(self.elements[rank].sum()) for rank in ranks) % self.prime

    def sum_once(self, ranks: list[int]) -> int:
        """What these ranks hold, each element once, of the first rank that holds it."""
        total, seen = 0, torch.zeros_like(self.count[ranks[0]], dtype=torch.bool)
        for rank in ranks:
            new = (self.count[rank] > 0) & ~seen
            total += int(self.elements[rank][new].sum())
            seen |= new
        return total % self.prime


def explain_clipping(alignment: Alignment, key: Key, aligned: Aligned, prime: int) -> Cause | None:
    """The cause of a wrong norm or of a wrong clipped gradient; None if no known relation explains it.

    Args:
        alignment: of a run in exact arithmetic without cuts.
        key: of the norm or of the clipped gradient.
        aligned: what the ranks hold of it.
        prime: of the run.
    """
    if key.phase is Phase.CLIPPED:
        gradient = alignment.of(Key(key.step, Phase.GRADIENT, key.name, key.call))
        unclipped = gradient is not None and all(
            rank in gradient.held and torch.equal(one.actual, gradient.held[rank].expected)
            for rank, one in aligned.held.items()
        )
        return Cause(kind=CauseKind.NOT_CLIPPED) if unclipped else None
    squares = _collect(alignment, key, prime) if key.phase is Phase.NORM else None
    if squares is None or squares.sum_once(list(squares.elements)) != squares.right:
        return None  # of wrong gradients the norm is wrong too
    found = (relation(squares) for relation in _RELATIONS)
    return next((cause for cause in found if cause is not None), None)


def _of_part(squares: _Squares) -> Cause | None:
    """The norm of what a rank holds itself, or of what ranks along some axes hold; the rest is never added."""
    ranks = range(squares.alignment.axes.size)
    for names in ((), *squares.alignment.axes.choices()):
        sums = {rank: squares.sum_once(squares.group(rank, names)) for rank in ranks}
        if any(one != squares.right for one in sums.values()) and squares.holds(sums.__getitem__):
            return Cause(kind=CauseKind.NORM_OF_PART, axes=names)
    return None


def _with_replicas(squares: _Squares) -> Cause | None:
    """Ranks add up what they hold, and what several of them hold is counted several times."""
    for names in squares.alignment.axes.choices():
        sums = {rank: squares.sum_held(squares.group(rank, names)) for rank in squares.norms}
        if squares.holds(sums.__getitem__):
            return Cause(kind=CauseKind.NORM_COUNTS_REPLICAS, axes=names)
    return None


def _without_shard(squares: _Squares) -> Cause | None:
    """One rank's own elements are left out."""
    for rank in squares.norms:
        others = [other for other in squares.elements if other != rank]
        if others and squares.holds(lambda _rank, others=others: squares.sum_once(others)):  # type: ignore[misc]
            return Cause(kind=CauseKind.NORM_MISSES_SHARD, ranks=(rank,))
    return None


def _of_one_parameter(squares: _Squares) -> Cause | None:
    """One parameter is left out, or counted twice (as a tied one may be) or as often as there are ranks."""
    size = squares.alignment.axes.size
    for name, square in squares.parameters.items():
        for times in sorted({0, 2, size}):
            if square and squares.holds(lambda _rank, off=square * (times - 1): squares.right + off):  # type: ignore[misc]
                return Cause(
                    kind=CauseKind.NORM_COUNTS_PARAMETER if times else CauseKind.NORM_MISSES_PARAMETER,
                    parameter=name,
                    factor=Fraction(times) if times else None,
                )
    return None


_RELATIONS = (_of_part, _with_replicas, _without_shard, _of_one_parameter)


def _collect(alignment: Alignment, key: Key, prime: int) -> _Squares | None:
    """The sums of squares of a step; None where some number is void or was not recorded."""
    reported = {rank: one.squares.get(key) for rank, one in enumerate(alignment.ranks) if key in one.tensors}
    norms = {rank: int(square) for rank, square in reported.items() if square is not None}
    right = alignment.reference.squares.get(key)
    if right is None or len(norms) < len(reported):
        return None
    state, elements, count = alignment.layout.state, {}, {}
    void = VOID in (int(right), *norms.values())
    for rank, records in enumerate(alignment.ranks):
        elements[rank], count[rank] = (torch.zeros(state.length, dtype=torch.int64) for _ in range(2))
        for one, recorded in records.tensors.items():
            if (one.step, one.phase) == (key.step, Phase.GRADIENT):
                index = alignment.layout.element_index[one.name][rank].reshape(-1)
                kept, values = index != PADDING, recorded.values.reshape(-1)
                void = void or bool((values == VOID).any())
                elements[rank].index_add_(0, index[kept], values[kept] ** 2 % prime)
                count[rank].index_add_(0, index[kept], torch.ones_like(index[kept]))
    parameters = {
        one.name: int((recorded.values**2 % prime).sum()) % prime
        for one, recorded in alignment.reference.tensors.items()
        if (one.step, one.phase) == (key.step, Phase.GRADIENT)
    }
    if void:
        return None
    return _Squares(
        alignment=alignment,
        prime=prime,
        norms=norms,
        right=int(right) % prime,
        elements=elements,
        count=count,
        parameters=parameters,
    )
