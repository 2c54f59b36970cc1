"""`shardproof census`: prove every model type of transformers that has a tensor-parallel plan."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from shardproof.cli.mesh_option import read_mesh
from shardproof.cli.output import Exit, check_writable, write_atomically
from shardproof.cli.prove_repro import make_folder
from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from shardproof.census.results import Case, Outcome, Result


def census_command(
    types: Annotated[
        list[str] | None, typer.Argument(metavar="[TYPE]...", help="Model types; all if not given.")
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option(help="Append each result to this file as it comes; what it holds is not run again.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write a page in Markdown of all results.")] = None,
    wrappers: Annotated[
        bool,
        typer.Option(
            "--wrappers",
            help="Instead: the types whose plan is that of a section, as of the text model of one of images and text.",
        ),
    ] = False,
    variants: Annotated[
        bool, typer.Option("--variants", help="Also each optional feature of a configuration, turned over.")
    ] = False,
    suggest: Annotated[
        bool,
        typer.Option("--suggest", help="For each wrong plan, search for entries that mend it; prove it with them."),
    ] = False,
    repro: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write a script of plain PyTorch for each that is wrong or fails, in DIR/TYPE."
        ),
    ] = None,
    loading: Annotated[
        bool,
        typer.Option(
            "--loading", help="Instead: load each model sharded from a checkpoint, save it again, and compare weights."
        ),
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Run again what the file holds, if shardproof could not decide it.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Every Nth type from the Ith on, for one of N machines; I from 1.")
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Run nothing: take the results of these files, one for each machine."),
    ] = None,
    devices: Annotated[int, typer.Option(help="Number of ranks, on one axis tp.")] = 2,
    mesh: Annotated[
        str | None,
        typer.Option(help="Instead, the mesh's axes: ep=2,tp=2; with ep the expert-parallel plans."),
    ] = None,
    trials: Annotated[int, typer.Option(help="Number of random points.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of primes, oracles and random inputs.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes at once.")] = 2,
    timeout: Annotated[float, typer.Option(help="Seconds after which a type is given up.")] = 300.0,
    memory: Annotated[float, typer.Option(help="GiB of memory of each process.")] = 4.0,
) -> int:
    """Prove every model type of transformers that has a plan over these axes, each in a process of its own.

    Exit code 0: all are proved. 1: some are wrong. 2: none is wrong, and some could not be decided.
    """
    from shardproof.census import processes
    from shardproof.census.cases import list_types
    from shardproof.census.one_case import prove_case
    from shardproof.census.page import count_outcomes, render_page
    from shardproof.census.results import LOADING, Case, keep_latest, merge_results, read_results, write_line

    for path in (output, page):
        if path is not None:
            check_writable(path)
    if jobs < 1 or devices < 2 or trials < 1 or not timeout > 0 or not memory > 0:
        raise CannotRunError(
            "--jobs and --trials must be at least 1, --devices at least 2, --timeout and --memory above 0"
        )
    results = [] if output is None or not output.exists() else read_results(output)
    sizes = {} if mesh is None else read_mesh(mesh)
    given = Case(kind="", devices=devices, mesh=sizes, trials=trials, seed=seed, suggest=suggest)
    if loading and (variants or suggest or repro is not None or mesh is not None):
        raise CannotRunError("--loading takes one axis tp: leave out --variants, --suggest, --repro and --mesh")
    known = list_types(given.mesh, wrappers=wrappers)
    for kind in types or []:
        if kind not in known:
            raise CannotRunError(_say_unknown(kind, len(known), given.mesh, wrappers=wrappers))
    wanted = _list_cases(types or known, given, variants=variants)
    if loading:
        wanted = [replace(case, variant=LOADING) for case in wanted]
    if shard is not None:
        first, of = _read_shard(shard)
        wanted = wanted[first - 1 :: of]
    if merge:
        if shard is not None or output is not None or again:
            raise CannotRunError("--merge runs nothing: leave out --shard, --output and --again")
        results = merge_results(merge)
    done = {_key(one.case, one) for one in results if _is_enough(one, suggest=suggest, again=again)}
    cases = [] if merge else [case for case in wanted if _key(case) not in done]
    work = None
    if repro is not None:
        if mesh is not None:
            raise CannotRunError("--repro writes a script for one axis tp: give --devices instead of --mesh")
        make_folder(repro)
        work = partial(prove_case, folder=repro)
    limits = processes.Limits(seconds=timeout, memory=memory, jobs=jobs)
    with _bar(len(cases)) as advance:
        for result in processes.run_cases(cases, limits, work):
            results.append(result)
            line = write_line(result) + "\n"
            if output is None:
                sys.stdout.write(line)
                sys.stdout.flush()
            else:
                with output.open("a", encoding="utf-8") as file:
                    file.write(line)
            advance(result)
    results = [one for one in results if one.case.mesh == given.mesh]
    if page is not None:
        of_page = [one for one in results if one.case.kind in known]
        write_atomically(page, render_page(of_page, known, given.mesh, wrappers=wrappers))
    named = {(case.kind, case.variant) for case in wanted}
    latest = [one for key, one in keep_latest(results).items() if key in named]
    found = {(one.case.kind, one.case.variant) for one in latest}
    missing = list(dict.fromkeys(case.kind for case in wanted if (case.kind, case.variant) not in found))
    counts = Counter(one.outcome for one in latest) if loading else count_outcomes(latest)
    print(_summarize(counts), file=sys.stdout if output is not None else sys.stderr)
    if missing:
        told = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise CannotRunError(f"the merged files have no result of {told}: run their shards too")
    return _exit_of(latest)


def _list_cases(types: list[str], given: Case, *, variants: bool) -> list[Case]:
    """What is to be run of these types, with the ranks, trials and seed of `given`."""
    from shardproof.census.cases import list_variants
    from shardproof.census.results import BASE

    return [
        replace(given, kind=kind, variant=name, settings=settings)
        for kind in types
        for name, settings in (list_variants(kind) if variants else [(BASE, {})])
    ]


def _say_unknown(kind: str, known: int, mesh: Mapping[str, int], *, wrappers: bool) -> str:
    plan = "an expert-parallel plan" if "ep" in mesh else "a tensor-parallel plan"
    where = f"a section that has {plan}" if wrappers else plan
    other = "leave --wrappers out for those with" if wrappers else "--wrappers has those with a section that has"
    return f"{kind!r} is no model type of transformers with {where}; there are {known}, and {other} one"


def _read_shard(text: str) -> tuple[int, int]:
    """The number of a shard, from 1, and of how many."""
    first, slash, of = text.partition("/")
    if not (slash and first.isdecimal() and of.isdecimal() and 1 <= int(first) <= int(of)):
        raise CannotRunError(f"--shard {text!r}: give I/N, the Ith of N parts, such as 3/8")
    return int(first), int(of)


def _key(case: Case, result: Result | None = None) -> tuple[object, ...]:
    """What has to be the same for a result to stand for a case."""
    from shardproof.report.json import installed_versions

    versions = installed_versions() if result is None or not result.versions else result.versions
    numbers = (case.devices, tuple(case.mesh.items()), case.trials, case.seed)
    return case.kind, case.variant, *numbers, versions.get("torch"), versions.get("transformers")


def _is_enough(result: Result, *, suggest: bool, again: bool) -> bool:
    """Whether a result need not be made again."""
    searched = result.case.suggest or not suggest or not result.suggestible
    return searched and (result.outcome.decided or not again)


def _summarize(counts: Counter[Outcome]) -> str:
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    return f"{counts.total()} model types: {told}" if counts else "no model types"


def _exit_of(results: list[Result]) -> Exit:
    from shardproof.census.results import Outcome

    if any(one.outcome is Outcome.WRONG for one in results):
        return Exit.DIVERGED
    right = (Outcome.PROVED, Outcome.VACUOUS, Outcome.LOADED)
    proved = bool(results) and all(one.outcome in right for one in results)
    return Exit.PASSED if proved else Exit.COULD_NOT_RUN


@contextmanager
def _bar(total: int) -> Iterator[Callable[[Result], None]]:
    """A progress bar on a terminal; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("census", total=total)

        def advance(result: Result) -> None:
            progress.update(task, advance=1, description=escape(f"{result.case.kind} {result.outcome}"))

        yield advance
