"""The running statistics of a comparison, block after block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardproof.comparison.blocks import Block
    from shardproof.comparison.elementwise import BlockStatistics


@dataclass(slots=True)
class Tally:
    """Running statistics, changed in place, because a block takes only a few microseconds.

    `worst` is the block with the largest difference; the element is found in it at the end.
    """

    ulp_limit: int | None
    exact: bool = True
    close: bool = True
    maxdiff: float = 0
    max_ulp: int = 0
    worst: Block | None = None
    nan_actual: int = 0
    nan_expected: int = 0
    inf_actual: int = 0
    inf_expected: int = 0

    @property
    def ulp_settled(self) -> bool:
        """No further block can change `max_ulp`."""
        return self.ulp_limit is not None and self.max_ulp >= self.ulp_limit

    def add_difference(self, difference: float, block: Block) -> None:
        """Add the largest difference of a block."""
        if difference > self.maxdiff or (math.isnan(difference) and not math.isnan(self.maxdiff)):
            self.maxdiff = difference
            self.worst = block
        if difference != 0:
            self.exact = False

    def add_ulp(self, steps: int) -> None:
        """Add the largest ULP distance of a block. Where denormals are flushed, only it tells some elements apart."""
        self.exact = self.exact and steps == 0
        self.max_ulp = max(self.max_ulp, steps if self.ulp_limit is None else min(steps, self.ulp_limit))

    def add(self, statistics: BlockStatistics, block: Block) -> None:
        """Add all statistics of a block."""
        self.add_difference(statistics.maxdiff, block)
        self.add_ulp(statistics.max_ulp)
        self.close = self.close and statistics.close
        self.nan_actual += statistics.nan_actual
        self.nan_expected += statistics.nan_expected
        self.inf_actual += statistics.inf_actual
        self.inf_expected += statistics.inf_expected
