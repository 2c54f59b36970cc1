"""A difference: one tensor that some rank holds wrongly, as the relations that may explain it are given it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.judging.closeness import is_equal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardproof.proving.axes import Axes
    from shardproof.proving.judging.alignment import ActualExpected
    from shardproof.proving.judging.closeness import Closeness
    from shardproof.proving.records import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One tensor that some rank holds wrongly.

    Attributes:
        phase: what the tensor is.
        held: what each rank holds and should hold, of one shape.
        axes: of the mesh.
        closeness: how values are compared.
    """

    phase: Phase
    held: Mapping[int, ActualExpected]
    axes: Axes
    closeness: Closeness

    @property
    def wrong(self) -> list[int]:
        """The ranks that hold a wrong element."""
        return [rank for rank, one in self.held.items() if not self.is_right(one)]

    def is_right(self, one: ActualExpected) -> bool:
        """Whether a rank holds what it should."""
        return is_equal(self.closeness, one.actual, one.expected)

    def cause(self, kind: CauseKind, **parameters: object) -> Cause:
        """A cause of this difference, as exact as its comparison."""
        return Cause(kind=kind, approximate=self.closeness.approximate, **parameters)  # type: ignore[arg-type]
