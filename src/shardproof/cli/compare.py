"""`shardproof compare ACTUAL EXPECTED`: every tensor of two safetensors files."""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from shardproof.cli.compare_rows import Kernel, Row, Settings, compare_files, count_rows
from shardproof.cli.output import Exit, Format, check_writable, write_atomically
from shardproof.errors import CannotRunError


def compare_command(
    actual: Annotated[Path, typer.Argument(metavar="ACTUAL", help="The candidate's tensors: a safetensors file.")],
    expected: Annotated[Path, typer.Argument(metavar="EXPECTED", help="The reference's tensors: another.")],
    *,
    output_format: Annotated[Format, typer.Option("--format", help="How to write the result.")] = Format.text,
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance \\[torch.testing's for the dtype].")] = None,
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance \\[torch.testing's for the dtype].")] = None,
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
        rows = compare_files(a, e, settings)
    code = _exit_code(rows)
    if output_format is Format.json:
        from shardproof.cli.compare_json import render_json

        text = render_json(rows, count_rows(rows), actual=actual, expected=expected, exit_code=code)
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


def _exit_code(rows: list[Row]) -> Exit:
    if any(row.status == "failed" for row in rows):
        return Exit.DIVERGED
    if any(row.unreadable for row in rows) or not any(row.status == "passed" for row in rows):
        return Exit.COULD_NOT_RUN
    return Exit.PASSED


def _explain_incomplete(rows: list[Row]) -> str:
    unreadable = sum(row.unreadable for row in rows)
    if unreadable:
        return f"{unreadable} of {len(rows)} tensors could not be compared, so the comparison is incomplete"
    return f"nothing was compared: the files hold {len(rows)} tensors and none with elements; give files that do"


def _render_text(rows: list[Row]) -> str:
    from shardproof.tensorfiles import printable

    width = max(15, min(60, max((len(printable(row.name)) for row in rows), default=0)))
    lines = [
        row.comparison.describe(width) if row.comparison else f"{printable(row.name).ljust(width)} | {row.reason}"
        for row in rows
    ]
    counts = count_rows(rows)
    exact = sum(row.comparison is not None and row.comparison.outcome == "exact" for row in rows)
    lines.append(
        f"{counts['passed']} passed ({exact} exact) + {counts['failed']} failed + {counts['skipped']} skipped"
        f" = {counts['total']} tensors"
    )
    return "\n".join(lines) + "\n"
