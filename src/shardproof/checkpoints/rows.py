"""Values: what a comparison of two checkpoints says, a `Row` for each tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shardproof.checkpoints.words import describe_damage
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from shardproof.checkpoints.damage import Damage
    from shardproof.comparison import Comparison

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One tensor of either checkpoint.

    Attributes:
        name: in the expected checkpoint, or in `actual` where that alone has it.
        status: passed, failed or skipped.
        comparison: of the two tensors; None where there is none.
        damage: what happened to the tensor; None where nothing did, or nobody looked.
        reason: why the tensors could not be compared, in words; None where they were.
        unreadable: whether the tensors could not be compared, so that the result is incomplete.
        layouts: how ranks hold it, of actual and expected; "" where one rank has it.
    """

    name: str
    status: Status
    comparison: Comparison | None
    damage: Damage | None = None
    reason: str | None = None
    unreadable: bool = False
    layouts: tuple[str, str] = ("", "")

    @property
    def finding(self) -> str:
        """In one word: equal, rounding, empty, not compared, or what happened."""
        if self.damage is not None:
            return str(self.damage.kind)
        if self.comparison is None:
            return "not compared"
        words = {"exact": "equal", "approximate": "rounding", "nothing": "empty", "diverged": "differs"}
        return words[self.comparison.outcome]

    @property
    def told(self) -> str | None:
        """In one sentence what is wrong, or why there is no comparison; None where nothing is wrong."""
        return self.reason if self.damage is None else describe_damage(self.damage)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointComparison:
    """Two checkpoints, compared.

    Attributes:
        rows: one for each tensor.
        actual, expected: in words, of which ranks the checkpoints are; "" where of one.
    """

    rows: tuple[Row, ...]
    actual: str = ""
    expected: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors passed, failed and were skipped, and the total, which is their sum."""
        counts = {s: sum(row.status == s for row in self.rows) for s in ("passed", "failed", "skipped")}
        return {**counts, "total": len(self.rows)}

    @property
    def unreadable(self) -> int:
        """How many tensors could not be compared."""
        return sum(row.unreadable for row in self.rows)

    @property
    def equal(self) -> bool:
        """Whether every tensor was compared and is equal within tolerance, and there is at least one."""
        counts = self.counts
        return counts["failed"] == 0 and self.unreadable == 0 and counts["passed"] > 0

    def __str__(self) -> str:
        """A line for each tensor that is not right, and the counts."""
        return self.describe(only_failed=True)

    def describe(self, *, only_failed: bool = False) -> str:
        """A line for each tensor, below it what is wrong; then the counts."""
        rows = [row for row in self.rows if not only_failed or row.status == "failed" or row.unreadable]
        width = max(15, min(60, max((len(printable(row.name)) for row in rows), default=0)))
        lines = [line for row in rows for line in _describe(row, width)]
        if self.actual or self.expected:
            lines.append(f"actual: {self.actual or 'one rank'}; expected: {self.expected or 'one rank'}")
        counts = self.counts
        exact = sum(row.comparison is not None and row.comparison.outcome == "exact" for row in self.rows)
        lines.append(
            f"{counts['passed']} passed ({exact} exact) + {counts['failed']} failed + {counts['skipped']} skipped"
            f" = {counts['total']} tensors"
        )
        return "\n".join(lines)


def _describe(row: Row, width: int) -> list[str]:
    if row.comparison is None:
        return [f"{printable(row.name).ljust(width)} | {row.told}"]
    return [row.comparison.describe(width), *([f"    {row.told}"] if row.told else [])]
