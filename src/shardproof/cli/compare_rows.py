"""The tensors of two files, compared one by one: a `Row` for each."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from shardproof.comparison import Comparison
    from shardproof.tensorfiles import TensorFile

Status = Literal["passed", "failed", "skipped"]


class Kernel(StrEnum):
    """Which code compares: PyTorch's ops, or C++ compiled for this machine."""

    eager = "eager"
    compiled = "compiled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One tensor of either file.

    Attributes:
        name: in the files.
        status: passed, failed or skipped.
        comparison: of the two tensors; None where there is none.
        reason: why there is no comparison; None where there is one.
        unreadable: whether the tensors could not be compared, so that the result is incomplete.
    """

    name: str
    status: Status
    comparison: Comparison | None
    reason: str | None
    unreadable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options that reach each comparison."""

    rtol: float | None
    atol: float | None
    equal_nan: bool
    kernel: Kernel


def compare_files(actual: TensorFile, expected: TensorFile, settings: Settings) -> list[Row]:
    """Compare every tensor of both files: in the order of the expected file, then those that only `actual` has."""
    in_actual = {entry.name for entry in actual.entries}
    in_expected = {entry.name for entry in expected.entries}
    names = [entry.name for entry in expected.entries]
    names += [entry.name for entry in actual.entries if entry.name not in in_expected]
    rows = []
    for done, name in enumerate(names):
        _show_progress(done, len(names))
        if name not in in_actual:
            rows.append(Row(name=name, status="failed", comparison=None, reason="missing: only expected has it"))
        elif name not in in_expected:
            rows.append(Row(name=name, status="failed", comparison=None, reason="extra: only actual has it"))
        else:
            rows.append(_compare_tensor(name, actual, expected, settings))
    _show_progress(len(names), len(names))
    return rows


def _compare_tensor(name: str, actual: TensorFile, expected: TensorFile, settings: Settings) -> Row:
    from shardproof.comparison import compare
    from shardproof.tensorfiles import printable

    try:
        comparison = compare(
            actual.read(name),
            expected.read(name),
            rtol=settings.rtol,
            atol=settings.atol,
            equal_nan=settings.equal_nan,
            name=printable(name),
            kernel=settings.kernel.value,
        )
    except CannotRunError as error:
        return Row(name=name, status="skipped", comparison=None, reason=f"not compared: {error}", unreadable=True)
    outcome = comparison.outcome
    status: Status = "skipped" if outcome == "nothing" else "failed" if outcome == "diverged" else "passed"
    return Row(name=name, status=status, comparison=comparison, reason=None)


def count_rows(rows: list[Row]) -> dict[str, int]:
    """How many tensors passed, failed and were skipped, and the total, which is their sum."""
    counts = {status: sum(row.status == status for row in rows) for status in ("passed", "failed", "skipped")}
    return {**counts, "total": len(rows)}


def _show_progress(done: int, total: int) -> None:
    if _on_terminal():
        end = "" if done < total else "\r\x1b[K"
        print(f"\rcompared {done} of {total} tensors", end=end, file=sys.stderr, flush=True)


def _on_terminal() -> bool:
    return sys.stderr.isatty()
