"""`shardproof prove STEP`: prove that a sharded training step is still the single-device step."""

from __future__ import annotations

import importlib.util
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from shardproof.prove.sides import Parallelize
    from shardproof.prove.step import Step


class Format(StrEnum):
    """How the proof is written."""

    text = "text"
    json = "json"


def prove_command(
    step: Annotated[str, typer.Argument(metavar="STEP", help="FILE.py:NAME of a Step, or hf:TYPE, or hf:CONFIG.json.")],
    *,
    parallelize: Annotated[str | None, typer.Option(help="FILE.py:NAME of parallelize(model, mesh) -> model.")] = None,
    devices: Annotated[int, typer.Option(help="How many ranks, simulated in this process.")] = 2,
    trials: Annotated[int, typer.Option(help="How many random points.")] = 3,
    steps: Annotated[int | None, typer.Option(help="Training steps; the Step's own unless given.")] = None,
    seed: Annotated[int, typer.Option(help="Of primes, oracles and probes.")] = 0,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE of the hf: configuration.")] = None,
    plan_set: Annotated[list[str] | None, typer.Option(help="PATTERN=STYLE put into the hf: plan.")] = None,
    plan_drop: Annotated[list[str] | None, typer.Option(help="PATTERN taken out of the hf: plan.")] = None,
    form: Annotated[Format, typer.Option("--format", help="How the proof is written.")] = Format.text,
    output: Annotated[Path | None, typer.Option(help="A file for it instead of standard output.")] = None,
) -> int:
    """Prove a sharded training step in exact arithmetic; exit 0 proved, 1 not, 2 could not run."""
    from shardproof.cli.atomic import check_writable, write_atomically
    from shardproof.prove.prove import prove
    from shardproof.report.json import render_json
    from shardproof.report.text import render_text

    if output is not None:
        check_writable(output)
    what, how = _sides(step, parallelize, settings or [], plan_set or [], plan_drop or [], seed)
    if steps is not None:
        from dataclasses import replace

        what = replace(what, steps=steps)
    proof = prove(what, parallelize=how, devices=devices, trials=trials, seed=seed)
    text = (render_json if form is Format.json else render_text)(proof) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        write_atomically(output, text)
    return 0 if proof.ok else 1


def _sides(
    step: str, parallelize: str | None, settings: list[str], put: list[str], drop: list[str], seed: int
) -> tuple[Step, Parallelize]:
    from shardproof.prove.step import Step

    if step.startswith("hf:"):
        from shardproof.frameworks.transformers import OwnPlan, PlanChange, tiny_step

        values = {key: _value(value) for key, value in map(_split, settings)}
        what = tiny_step(step.removeprefix("hf:"), values, seed=seed)
        if parallelize is not None:
            return what, _load(parallelize)
        return what, OwnPlan(change=PlanChange(drop=tuple(drop), put=dict(map(_split, put))))
    if settings or put or drop:
        raise CannotRunError("--set, --plan-set and --plan-drop change an hf: model; for your own, change its file")
    if parallelize is None:
        raise CannotRunError("--parallelize FILE.py:NAME is needed: the function that shards the model")
    found = _load(step)
    if not isinstance(found, Step):
        raise CannotRunError(f"{step} is a {type(found).__name__}; needed is a shardproof.Step")
    return found, _load(parallelize)


def _split(entry: str) -> tuple[str, str]:
    key, equals, value = entry.partition("=")
    if not (key and equals and value):
        raise CannotRunError(f"{entry!r}: give KEY=VALUE")
    return key, value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _load(place: str) -> Any:
    """The object NAME of FILE.py, which is run for it: a user's own code, named by the user."""
    path, colon, name = place.rpartition(":")
    if not (colon and path.endswith(".py") and name):
        raise CannotRunError(f"{place!r}: give FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise CannotRunError(f"{path}: no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(spec.name, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise CannotRunError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise CannotRunError(f"{path} has no {name!r}")
    return getattr(module, name)
