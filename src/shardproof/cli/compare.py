"""`shardproof compare ACTUAL EXPECTED`: every tensor of two safetensors files."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from shardproof.cli.exits import Exit
from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from shardproof.comparison import Comparison
    from shardproof.tensorfiles import TensorFile

Status = Literal["passed", "failed", "skipped"]


class Format(StrEnum):
    """How the result is written."""

    text = "text"
    json = "json"


class Kernel(StrEnum):
    """What does the comparing."""

    eager = "eager"
    compiled = "compiled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One tensor of either file. Without a comparison, `reason` says why there is none."""

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


def compare_command(
    actual: Annotated[Path, typer.Argument(metavar="ACTUAL", help="The candidate's tensors: a safetensors file.")],
    expected: Annotated[Path, typer.Argument(metavar="EXPECTED", help="The reference's tensors: another.")],
    *,
    output_format: Annotated[Format, typer.Option("--format", help="How to write the result.")] = Format.text,
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance [torch.testing's for the dtype].")] = None,
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance [torch.testing's for the dtype].")] = None,
    equal_nan: Annotated[bool, typer.Option("--equal-nan", help="NaN at the same place in both is equal.")] = False,
    kernel: Annotated[Kernel, typer.Option(help="compiled: for many gigabytes, with a C++ compiler.")] = Kernel.eager,
    output: Annotated[
        Path | None, typer.Option(help="Also write the result to this file, whole or not at all.")
    ] = None,
) -> None:
    """Compare every tensor of two safetensors files.

    Exit code 0: all are equal within tolerance. 1: some differ, are missing or are extra. 2: could not run, some could
    not be compared, or there was nothing to compare.
    """
    from shardproof.cli.output import check_writable, write_atomically
    from shardproof.tensorfiles import open_tensor_file

    for what, tolerance in (("--rtol", rtol), ("--atol", atol)):
        if tolerance is not None and not tolerance >= 0:
            raise CannotRunError(f"{what} {tolerance} is no tolerance; give a number of 0 or more")
    if output is not None:
        check_writable(output)
        if output.resolve() in (actual.resolve(), expected.resolve()):
            raise CannotRunError("--output is one of the files to compare; give another path")
    settings = Settings(rtol=rtol, atol=atol, equal_nan=equal_nan, kernel=kernel)
    with open_tensor_file(actual) as a, open_tensor_file(expected) as e:
        rows = _compare_files(a, e, settings)
    code = _exit_code(rows)
    if output_format is Format.json:
        from shardproof.cli.compare_json import render_json

        text = render_json(rows, _count(rows), actual=actual, expected=expected, exit_code=code)
    else:
        text = _render_text(rows)
    if output is not None:
        write_atomically(output, text)
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")
    if code is Exit.COULD_NOT_RUN:
        raise CannotRunError(_explain_incomplete(rows))
    if code:
        raise typer.Exit(code)


def _compare_files(actual: TensorFile, expected: TensorFile, settings: Settings) -> list[Row]:
    """In the order of the expected file; what only the actual file has comes after."""
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


def _count(rows: list[Row]) -> dict[str, int]:
    counts = {status: sum(row.status == status for row in rows) for status in ("passed", "failed", "skipped")}
    return {**counts, "total": len(rows)}


def _exit_code(rows: list[Row]) -> Exit:
    if any(row.status == "failed" for row in rows):
        return Exit.DIVERGED
    if any(row.unreadable for row in rows) or not any(row.status == "passed" for row in rows):
        return Exit.COULD_NOT_RUN
    return Exit.AS_IT_SHOULD_BE


def _explain_incomplete(rows: list[Row]) -> str:
    unreadable = sum(row.unreadable for row in rows)
    if unreadable:
        return f"{unreadable} of {len(rows)} tensors could not be compared, so the rest proves nothing of the whole"
    return f"nothing was compared: the files hold {len(rows)} tensors and none with elements; give files that do"


def _render_text(rows: list[Row]) -> str:
    from shardproof.tensorfiles import printable

    width = max(15, min(60, max((len(printable(row.name)) for row in rows), default=0)))
    lines = [
        row.comparison.describe(width) if row.comparison else f"{printable(row.name).ljust(width)} | {row.reason}"
        for row in rows
    ]
    counts = _count(rows)
    exact = sum(row.comparison is not None and row.comparison.outcome == "exact" for row in rows)
    lines.append(
        f"{counts['passed']} passed ({exact} exact) + {counts['failed']} failed + {counts['skipped']} skipped"
        f" = {counts['total']} tensors"
    )
    return "\n".join(lines) + "\n"


def _show_progress(done: int, total: int) -> None:
    if _on_terminal():
        end = "" if done < total else "\r\x1b[K"
        print(f"\rcompared {done} of {total} tensors", end=end, file=sys.stderr, flush=True)


def _on_terminal() -> bool:
    return sys.stderr.isatty()
