"""Reproductions: a script of plain PyTorch and transformers that shows a divergence, and the text of a report."""

from __future__ import annotations

import json
import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers.plan_candidates import generalize
from shardproof.frameworks.transformers.repro_template import DRAWN_LOSS, MODEL_LOSS, TEMPLATE
from shardproof.proving.findings import Verdict
from shardproof.proving.records import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from shardproof.frameworks.transformers.plans import OwnPlan
    from shardproof.proving.findings import Finding
    from shardproof.proving.step import Step

SCRIPT, REPORT = "repro.py", "report.md"
# What forward and backward decide; the others are of the prover's own checks, or of what comes after.
_SHOWN = (Phase.INPUT, Phase.OUTPUT, Phase.LOSS, Phase.OUTPUT_GRADIENT, Phase.INPUT_GRADIENT, Phase.GRADIENT)
_MOST_WATCHED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """What is written into a folder.

    Attributes:
        script: the text of `repro.py`: exit code 1 if the sharded model diverges, 0 if not.
        report: the text of `report.md`, for an issue of transformers.
    """

    script: str
    report: str


def make_reproduction(
    step: Step, plan: OwnPlan, ranks: int, roots: Sequence[Finding], said: Sequence[str]
) -> Reproduction:
    """Write the script and the report.

    Args:
        step: of a model of transformers, as `tiny_step` makes it.
        plan: how it is sharded.
        ranks: over which.
        roots: first causes; none where nothing is wrong.
        said: what is wrong, in words, a line each.

    Raises:
        CannotRunError: forward and backward would not show what is wrong.
    """
    first = [one for one in roots if one.failed and one.verdict is not Verdict.VACUOUS]
    hidden = next((one for one in first if one.key.phase not in _SHOWN), None)
    if hidden is not None and first[0] is hidden:
        raise CannotRunError(
            f"--repro: the first cause is {hidden.key}; loss and gradients of a step without dropout do not show it"
        )
    model = step.model()
    full = plan.resolve(model, {"tp": ranks})
    parts = _describe_model(model) | _describe_plan(model, full, plan) | _describe_batch(step.batch)
    parts |= _describe_causes(first, model) | {
        "RANKS": str(ranks),
        "FILE": SCRIPT,
        "VERSIONS": _list_versions(),
        "SAID": "\n".join(f"# {one}" for one in said) if said else "# Nothing is known to be wrong.",
    }
    script = re.sub(r"@([A-Z_]+)@", lambda found: parts[found[1]], TEMPLATE)
    return Reproduction(script=script, report=_write_report(type(model).__name__, ranks, said))


def save_reproduction(made: Reproduction, folder: Path) -> None:
    """Write `repro.py` and `report.md` into a folder.

    Raises:
        CannotRunError: they cannot be written.
    """
    try:
        (folder / SCRIPT).write_text(made.script, encoding="utf-8")
        (folder / REPORT).write_text(made.report, encoding="utf-8")
    except OSError as error:
        raise CannotRunError(f"--repro: {error.filename}: {error.strerror}") from error


def _describe_model(model: nn.Module) -> dict[str, str]:
    config: Any = model.config
    classes = (type(config), type(model))
    entries = {name: _without_dropout(name, value) for name, value in _minimal(config).items()}
    return {
        "CLASS": type(model).__name__,
        "CONFIG_CLASS": type(config).__name__,
        "IMPORTS": "\n".join(f"from {one.__module__} import {one.__name__}" for one in classes),
        "CONFIG": json.dumps(entries, indent=2),
        "ATTENTION": config._attn_implementation,  # noqa: SLF001 - as transformers' own models read it
        "OPTIONS": ", use_cache=False" if "use_cache" in model.forward.__code__.co_varnames else "",
    }


def _minimal(config: Any) -> dict[str, Any]:
    """The entries that differ from the defaults, if they make the same configuration; else all."""
    entries = {name: value for name, value in config.to_dict().items() if name not in _NOT_GIVEN}
    try:
        defaults = type(config)().to_dict()
        few = {name: value for name, value in entries.items() if name not in defaults or defaults[name] != value}
        made = type(config)(**json.loads(json.dumps(few))).to_dict()
    except Exception:  # noqa: BLE001 - a configuration without defaults
        return entries
    return few if all(made.get(name) == value for name, value in entries.items()) else entries


_NOT_GIVEN = ("transformers_version", "model_type", "architectures", "distributed_config")


def _without_dropout(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_dropout(key, inner) for key, inner in value.items()}
    return 0.0 if "dropout" in str(name) and isinstance(value, float) else value  # tables by layer have numbers


def _describe_plan(model: nn.Module, full: Mapping[str, str], plan: OwnPlan) -> dict[str, str]:
    """The plan by patterns, as transformers expands them; else with an entry for each name."""
    patterns: dict[str, str] = {}
    for name, style in full.items():
        module = generalize(name.rpartition(".")[0])
        if generalize(name) not in patterns and not _is_parameter(name, model, full, module):
            patterns[generalize(name)] = style
    expand: Any = model._expand_parallel_plan  # noqa: SLF001
    short = expand(patterns) == dict(full)
    written = patterns if short else dict(full)
    lines = [f"    {json.dumps(name)}: {json.dumps(style)}," for name, style in written.items()]
    said = "with changes" if plan.change.changes else "as it is"
    return {
        "PLAN": "\n".join(["{", *lines, "}"]),
        "PLAN_SAID": f"The model's own plan, {said}; `*` stands for the number of a layer.",
        "EXPAND": "model._expand_parallel_plan(PLAN)" if short else "PLAN",
    }


def _is_parameter(name: str, model: nn.Module, full: Mapping[str, str], module: str) -> bool:
    """Whether a name is a parameter's that has the style of its module, so that its module's entry says it."""
    owner, _, last = name.rpartition(".")
    inner = dict(model.get_submodule(owner).named_parameters(recurse=False)) if owner else {}
    return bool(module) and last in inner and full.get(owner) == full[name]


def _describe_batch(batch: Mapping[str, Any]) -> dict[str, str]:
    inputs = [f"        {json.dumps(name)}: {_write_value(value)}," for name, value in batch["inputs"].items()]
    return {
        "INPUTS": "\n".join(["{", *inputs, "    }"]),
        "LOSS": DRAWN_LOSS if "cotangents" in batch else MODEL_LOSS,
    }


def _write_value(value: Any) -> str:
    """An input as Python: integers and truth values as they are, other numbers drawn again."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            return f"draw({', '.join(map(str, value.shape))})"
        return f"torch.tensor({value.tolist()}, dtype={value.dtype})"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_write_value, value)) + "]"
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    raise CannotRunError(f"--repro: an input is a {type(value).__name__}, which no script of ours can make")


def _describe_causes(first: Sequence[Finding], model: nn.Module) -> dict[str, str]:
    modules = dict(model.named_modules())
    outputs = [one.key.name for one in first if one.key.phase is Phase.OUTPUT and one.key.name in modules]
    gradients = [one.key.name for one in first if one.key.phase is Phase.GRADIENT]
    return {"FIRST": json.dumps(gradients[:_MOST_WATCHED]), "MODULE": json.dumps(outputs[0] if outputs else "")}


def _list_versions() -> str:
    named = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in ("torch", "transformers"))]
    return ", ".join(named)


def _write_report(name: str, ranks: int, said: Sequence[str]) -> str:
    wrong = [f"- {one}" for one in said] or ["- nothing is known to be wrong"]
    lines = [
        "### System Info",
        "",
        f"{_list_versions()}; {platform.system()}, CPU, gloo.",
        "",
        "### What is wrong",
        "",
        f"{name}, sharded over {ranks} processes by its tensor-parallel plan, does not compute what one process does:",
        "",
        *wrong,
        "",
        "### Reproduction",
        "",
        f"`python {SCRIPT}` (attached): small random weights, fixed seeds, float64, no network. It prints the first",
        "tensors that differ, observed and reference, and exits with 1.",
        "",
        "### Expected behavior",
        "",
        "Loss and gradients are those of one process up to rounding; the script exits with 0.",
    ]
    return "\n".join(lines) + "\n"
