"""`shardproof compare ACTUAL EXPECTED`: two checkpoints, tensor by tensor."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from shardproof.cli.output import Exit, Format, check_writable, write_atomically
from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from shardproof.checkpoints import CheckpointComparison


class Kernel(StrEnum):
    """Which code compares: PyTorch's ops, or C++ compiled for this machine."""

    eager = "eager"
    compiled = "compiled"


def compare_command(
    actual: Annotated[
        Path, typer.Argument(metavar="ACTUAL", help="The candidate's tensors: a file, or the folder of a checkpoint.")
    ],
    expected: Annotated[Path, typer.Argument(metavar="EXPECTED", help="The reference's tensors: another.")],
    *,
    output_format: Annotated[Format, typer.Option("--format", help="How to write the result.")] = Format.text,
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance \\[torch.testing's for the dtype].")] = None,
    atol: Annotated[float | None, typer.Option(help="Absolute tolerance \\[torch.testing's for the dtype].")] = None,
    equal_nan: Annotated[bool, typer.Option("--equal-nan", help="NaN at the same place in both is equal.")] = False,
    kernel: Annotated[Kernel, typer.Option(help="compiled: for many gigabytes, with a C++ compiler.")] = Kernel.eager,
    layout: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON: how ranks hold tensors, where sizes don't show it.")
    ] = None,
    renamings: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="Names of ACTUAL as EXPECTED has them."),
    ] = None,
    cast: Annotated[bool, typer.Option("--cast", help="Compare different dtypes, in the less precise one.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain/--no-explain", help="Look for what happened to tensors that differ.")
    ] = True,
    only_failed: Annotated[bool, typer.Option("--only-failed", help="Leave out the tensors that are equal.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Also write the result to this file, whole or not at all.")
    ] = None,
) -> None:
    """Compare every tensor of two checkpoints, which may have been saved by different numbers of ranks.

    A checkpoint is a file of safetensors or torch.save, a folder with an index, a folder of
    torch.distributed.checkpoint, or a folder with the files of ranks. Nothing in it is run.

    Exit code 0: all are equal within tolerance. 1: some differ, are missing or are extra. 2: could not run, some could
    not be compared, or there was nothing to compare.
    """
    from shardproof.checkpoints import Layout, Settings, compare_paths, parse_renaming, read_layout

    for what, tolerance in (("--rtol", rtol), ("--atol", atol)):
        if tolerance is not None and not tolerance >= 0:
            raise CannotRunError(f"{what} {tolerance} is no tolerance; give a number of 0 or more")
    if output is not None:
        check_writable(output)
        if output.resolve() in (actual.resolve(), expected.resolve()):
            raise CannotRunError("--output is one of the files to compare; give another path")
    settings = Settings(
        rtol=rtol,
        atol=atol,
        equal_nan=equal_nan,
        kernel=kernel.value,
        layout=read_layout(layout) if layout is not None else Layout(),
        renamings=tuple(map(parse_renaming, renamings or ())),
        cast=cast,
        explain=explain,
    )
    comparison = compare_paths(actual, expected, settings, _show_progress)
    code = _exit_code(comparison)
    if output_format is Format.json:
        from shardproof.cli.compare_json import render_json

        text = render_json(comparison, actual=actual, expected=expected, exit_code=code, only_failed=only_failed)
    else:
        text = comparison.describe(only_failed=only_failed) + "\n"
    if output is not None:
        write_atomically(output, text)
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), end="")
    if code is Exit.COULD_NOT_RUN:
        raise CannotRunError(_explain_incomplete(comparison))
    if code:
        raise typer.Exit(code)


def _exit_code(comparison: CheckpointComparison) -> Exit:
    if comparison.counts["failed"]:
        return Exit.DIVERGED
    return Exit.PASSED if comparison.equal else Exit.COULD_NOT_RUN


def _explain_incomplete(comparison: CheckpointComparison) -> str:
    unreadable, total = comparison.unreadable, len(comparison.rows)
    if unreadable:
        return f"{unreadable} of {total} tensors could not be compared, so the comparison is incomplete"
    return f"nothing was compared: the files hold {total} tensors and none with elements; give files that do"


def _show_progress(what: str, done: int, total: int) -> None:
    if _on_terminal():
        end = "" if done < total else "\r\x1b[K"
        print(f"\r{what} {done} of {total} tensors", end=end, file=sys.stderr, flush=True)


def _on_terminal() -> bool:
    return sys.stderr.isatty()
