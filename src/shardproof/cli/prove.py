"""`shardproof prove STEP`: prove that a sharded training step is still the single-device step."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardproof.cli.launch import current_runs, led_by_rank_zero
from shardproof.cli.mesh_option import read_mesh, split_at_equals
from shardproof.cli.output import Exit, ProofFormat, check_writable, write_atomically, write_result
from shardproof.cli.prove_report import (
    append_summary,
    failure_annotated,
    find_summary_file,
    name_subject,
    render_proof,
)
from shardproof.cli.prove_repro import make_folder, write_crash, write_reproduction
from shardproof.cli.prove_suggest import require_own_plan
from shardproof.cli.prove_suggest import suggest as search_mend
from shardproof.cli.tracebacks import traceback_shown
from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from shardproof.frameworks.transformers import Suggestion
    from shardproof.proving.findings import Proof
    from shardproof.proving.running.target import ProofTarget

# Shown below the options; an empty line between two keeps each on a line of its own.
EXAMPLES = """Examples:

shardproof prove my_step.py:step --parallelize my_step.py:parallelize --devices 4

shardproof prove my_step.py:step --candidate my_loop.py:train --mesh dp=2,tp=2 --spawn

shardproof prove hf:llama --devices 2 --steps 1

shardproof prove hf:qwen3 --devices 2 --plan-drop '*q_norm' --html proof.html

shardproof prove hf:qwen3 --devices 2 --plan-drop '*q_norm' --suggest --format json --output proof.json

shardproof prove hf:llama-3.1-405b/config.json --reduce --mesh dp=16,tp=8

shardproof prove hf:mixtral --mesh dp=2,tp=2 --max-false-accept 1e-12 --format json --output proof.json
"""


@led_by_rank_zero
def prove_command(
    step: Annotated[
        str,
        typer.Argument(
            metavar="STEP", help="FILE.py:NAME of a Step; or hf: with a model type, config.json or checkpoint folder."
        ),
    ],
    *,
    parallelize: Annotated[str | None, typer.Option(help="FILE.py:NAME of parallelize(model, mesh) -> model.")] = None,
    candidate: Annotated[
        str | None, typer.Option(help="FILE.py:NAME of candidate(run), your own training step.")
    ] = None,
    devices: Annotated[int | None, typer.Option(help="Number of ranks, on one axis tp; 2 if not given.")] = None,
    mesh: Annotated[str | None, typer.Option(help="Instead, the mesh's axes in order: dp=2,tp=2.")] = None,
    data_axes: Annotated[
        str | None,
        typer.Option(help="NAME,...: axes that split the batch; by default ep, and those with dp or data in the name."),
    ] = None,
    spawn: Annotated[bool, typer.Option("--spawn", help="A process for each rank, on this machine.")] = False,
    jobs: Annotated[
        int, typer.Option(help="Processes in which trials after the first are taken; each needs the memory of one.")
    ] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds without progress after which ranks are given up.")] = 60.0,
    trials: Annotated[int, typer.Option(help="Number of random points.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Number of training steps; by default that of the Step.")] = None,
    max_false_accept: Annotated[
        float | None, typer.Option(help="More trials, until every derived bound is at most this.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Findings to accept: a pattern for 'VERDICT PHASE NAME'.")
    ] = None,
    numeric: Annotated[
        bool, typer.Option("--numeric", help="Only compare numbers, against the reference's rounding; proves nothing.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of primes, oracles and random inputs.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE: change the hf: configuration; a.b=VALUE in its section a."),
    ] = None,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="Keep the hf: configuration's sizes, which are made small otherwise.")
    ] = False,
    reduce: Annotated[
        bool,
        typer.Option(
            "--reduce",
            help="Keep the hf: configuration's heads, experts and kinds of layers, and how its widths divide.",
        ),
    ] = False,
    memory: Annotated[
        float | None,
        typer.Option(help="GiB of an hf: model's parameters in float64 that may be built; 1 if not given."),
    ] = None,
    plan: Annotated[
        str | None, typer.Option(help="A JSON file, or FILE.py:NAME: the plan of an hf: model, instead of its own.")
    ] = None,
    plan_set: Annotated[
        list[str] | None,
        typer.Option(help="PATTERN=STYLE: put an entry into the hf: plan, of modules or else of parameters."),
    ] = None,
    plan_drop: Annotated[list[str] | None, typer.Option(help="PATTERN: take entries out of the hf: plan.")] = None,
    suggest: Annotated[
        bool,
        typer.Option(
            "--suggest", help="If an hf: plan is wrong, search for entries that mend it, and prove it with them."
        ),
    ] = False,
    repro: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a script of plain PyTorch and transformers that shows what is wrong with an hf: plan.",
        ),
    ] = None,
    loading: Annotated[
        bool,
        typer.Option(
            "--loading",
            help="Instead of a step: load an hf: model sharded from a checkpoint, save it again, and compare weights.",
        ),
    ] = False,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="If your code raises an error, show where in full.")
    ] = False,
    output_format: Annotated[
        ProofFormat,
        typer.Option("--format", help="As text, a certificate in JSON, Markdown, GitHub's annotations or SARIF."),
    ] = ProofFormat.text,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of standard output.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page to look at: one HTML file that needs no network.")
    ] = None,
    show: Annotated[
        list[str] | None,
        typer.Option(help="A pattern for 'PHASE NAME': the page shows the values of these tensors too."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="In text, every tensor in a line of its own.")
    ] = False,
) -> int:
    """Prove a sharded training step in exact arithmetic; exit 0 proved, 1 not, 2 could not run.

    Under torchrun its processes are the ranks; rank 0 prints.
    """
    from shardproof.cli.progress import progress_shown
    from shardproof.frameworks.specification import Specification
    from shardproof.proving.prove import prove
    from shardproof.report.styles import wants_colour

    runs = current_runs()
    ranks = devices or (2 if runs is None else runs.size)  # where no mesh is given
    if show and html is None:
        raise CannotRunError("--show is for the page: give --html FILE too")
    if output is not None:
        check_writable(output)
    if html is not None:
        check_writable(html, option="--html")
        if output is not None and output.resolve() == html.resolve():
            raise CannotRunError("--output and --html are the same file; give another path to one of them")
    specification = Specification(
        step=step,
        parallelize=parallelize,
        candidate=candidate,
        settings={key: _read_value(value) for key, value in map(split_at_equals, settings or [])},
        full_size=full_size,
        reduce=None if not reduce else {"tp": ranks} if mesh is None else read_mesh(mesh),
        memory=memory,
        plan=plan,
        plan_set=dict(map(split_at_equals, plan_set or [])),
        plan_drop=tuple(plan_drop or []),
        steps=steps,
        seed=seed,
    )
    summary = find_summary_file(output_format)
    if suggest:
        require_own_plan(specification, "--suggest")
        if numeric:
            raise CannotRunError("--suggest proves the plan with other entries, and --numeric proves nothing")
    if loading:
        from shardproof.cli.prove_loading import prove_loading

        others = numeric or suggest or reduce or bool(plan_drop) or any(one is not None for one in (mesh, repro, html))
        return prove_loading(specification, ranks, output_format, output, others=others)
    if repro is not None:
        require_own_plan(specification, "--repro")
        if mesh is not None:
            raise CannotRunError("--repro writes a script for one axis tp: give --devices instead of --mesh")
        make_folder(repro)
    suggestion: Suggestion | None = None

    def run(changed: Specification, fewer: int | None) -> tuple[ProofTarget, Proof]:
        target = changed.load()
        proof = prove(
            target.step,
            parallelize=target.parallelize,
            candidate=target.candidate,
            devices=ranks if mesh is None else devices,
            mesh=None if mesh is None else read_mesh(mesh),
            data_axes=None if data_axes is None else [name for name in data_axes.split(",") if name],
            trials=fewer or trials,
            max_false_accept=None if fewer else max_false_accept,
            allow=tuple(allow or []),
            seed=seed,
            spawn=spawn,
            launched=runs or False,
            jobs=jobs,
            timeout=timeout,
            reload=changed.load,
            numeric=numeric,
            evidence=None if html is None else tuple(show or ()),
            tell=tell,
        )
        return target, replace(proof, reduction=target.reduction)

    with failure_annotated(output_format), traceback_shown(show_traceback), progress_shown() as tell:
        try:
            target, proof = run(specification, None)
        except CannotRunError as error:
            if repro is not None:
                write_crash(repro, specification, error, ranks)
            raise
        if suggest:
            suggestion = search_mend(proof, specification, target, run, tell)
    colour = output is None and wants_colour(sys.stdout)
    text = render_proof(
        proof,
        output_format,
        specification=specification,
        target=target,
        verbose=verbose,
        colour=colour,
        suggestion=suggestion,
    )
    if html is not None:
        from shardproof.report.json import render_json
        from shardproof.report.page.render import render_proof_page

        certificate = "" if numeric else render_json(proof, specification, suggestion)
        write_atomically(html, render_proof_page(proof, subject=name_subject(specification), certificate=certificate))
    if repro is not None:
        write_reproduction(repro, target, proof)
    if summary is not None:
        append_summary(summary, proof, specification)
    write_result(text, output)
    return Exit.of(proof.ok)


def _read_value(text: str) -> Any:
    """Read a JSON value; text that is no JSON is a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text
