"""`shardproof walkthrough`: the notebook's training step, at any size and on any number of devices."""

from __future__ import annotations

import os
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardproof.cli.launch import count_launched, rank_zero_speaks
from shardproof.cli.output import Exit, Format, check_writable, write_atomically
from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from shardproof.byhand.settings import Settings
    from shardproof.byhand.walkthrough import StepReport
    from shardproof.worlds.make import WorldKind
    from shardproof.worlds.world import World


def walkthrough_command(
    *,
    widths: Annotated[
        str, typer.Option(help="Number of features between the layers, input first; two or more.")
    ] = "6,4,2",
    samples: Annotated[int, typer.Option(help="Number of samples in the data set.")] = 32,
    batch_size: Annotated[
        int | None, typer.Option(help="Number of samples in a batch (32, or all if there are fewer).")
    ] = None,
    activation: Annotated[str, typer.Option(help="Between the layers: none, relu or gelu.")] = "none",
    loss: Annotated[str, typer.Option(help="mse or cross-entropy.")] = "mse",
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 0.01,
    steps: Annotated[int | None, typer.Option(help="Number of updates, one for each batch (one epoch).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the data and of the model.")] = 12345,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    devices: Annotated[int | None, typer.Option(help="1 to 64 (2; under torchrun, its processes).")] = None,
    split: Annotated[
        str, typer.Option(help="column, row, column-row (alternating), or one for each layer: column,row,row.")
    ] = "column",
    microbatches: Annotated[int, typer.Option(help="1 to 64 of each batch, in the pipeline of section 5.")] = 2,
    spawn: Annotated[
        bool, typer.Option("--spawn", help="Run a gloo process for each device, on this machine.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds without progress after which processes give up.")] = 60.0,
    output_format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
    html: Annotated[
        Path | None, typer.Option(help="Also write the first step as a page: one HTML file that needs no network.")
    ] = None,
) -> None:
    """Take training steps by hand, on one device, on several and in a pipeline; compare each tensor with PyTorch's.

    Exit code 0: every comparison is approximate. 1: one is not. 2: could not run.
    """
    launched = count_launched()
    with rank_zero_speaks(launched):
        settings = _read_settings(
            widths=widths,
            samples=samples,
            batch_size=batch_size,
            activation=activation,
            loss=loss,
            lr=lr,
            steps=steps,
            seed=seed,
            dtype=dtype,
            devices=devices if devices is not None else launched or 2,
            split=split,
            microbatches=microbatches,
        )
        if output_format not in list(Format):
            raise CannotRunError(f"--format {output_format!r}: give text or json")
        if html is not None:
            check_writable(html, option="--html")
        world, kind = _open_world(settings, launched=launched, spawn=spawn, timeout=timeout)
    code = _walk(settings, world, kind, output_format)
    if html is not None and world.speaks:
        from shardproof.report.page.render import render_walkthrough_page

        write_atomically(html, render_walkthrough_page(settings))
    sys.exit(code)


def _read_settings(
    *, widths: str, batch_size: int | None, steps: int | None, dtype: str, split: str, samples: int, **others: Any
) -> Settings:
    # Imported here and not at the top, because `shardproof compare` and --help do not need it.
    from shardproof.byhand.settings import Settings, check_memory, count_epoch, read_dtype, read_splits, read_widths

    sizes = read_widths(widths)
    batch = min(32, samples) if batch_size is None else batch_size
    settings = Settings(
        widths=sizes,
        samples=samples,
        batch_size=batch,
        steps=count_epoch(samples, max(1, batch)) if steps is None else steps,
        dtype=read_dtype(dtype),
        splits=read_splits(split, len(sizes) - 1),
        **others,
    )
    check_memory(settings, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return settings


def _walk(settings: Settings, world: World, kind: WorldKind, output_format: str) -> int:
    """Take the steps and write them; return the exit code."""
    from shardproof.byhand.walkthrough import take_steps
    from shardproof.cli.walkthrough_json import write_json
    from shardproof.cli.walkthrough_text import write_text

    reports = take_steps(settings, world)
    if not world.speaks:
        return int(any(True for _ in reports))  # this rank runs its part, and gets no reports
    write = write_text if output_format == Format.text else write_json
    return Exit.of(write(settings, kind, _show_progress(reports, settings.steps), sys.stdout))


def _open_world(settings: Settings, *, launched: int | None, spawn: bool, timeout: float) -> tuple[World, WorldKind]:
    if not timeout > 0:
        raise CannotRunError(f"--timeout {timeout}: give a positive number of seconds")
    kind: WorldKind = "spawned" if spawn else "simulated"
    if launched is not None:
        if spawn:
            raise CannotRunError("--spawn: torchrun has started the processes already; leave it out")
        if launched != settings.devices:
            raise CannotRunError(
                f"--devices {settings.devices}: torchrun has started {launched} processes; leave --devices out"
            )
        kind = "launched"
    from shardproof.worlds.make import make_world

    return make_world(kind, size=settings.devices, timeout=timeout), kind


def _show_progress(reports: Iterable[StepReport], steps: int) -> Iterator[StepReport]:
    """Pass the reports on; draw a progress bar on stderr if that is a terminal and there is more than one step."""
    shown = steps > 1 and sys.stderr.isatty()
    for report in reports:
        if shown:
            sys.stderr.write("\r\x1b[K")  # before the report is printed: both may go to the same terminal
        yield report
        if shown:
            done = 40 * report.step // steps
            sys.stderr.write(f"[{'#' * done}{'.' * (40 - done)}] step {report.step} of {steps}")
            sys.stderr.flush()
    if shown:
        sys.stderr.write("\r\x1b[K")
