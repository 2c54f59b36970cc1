"""A step as a picture: modules in execution order, forward down and backward up, with collectives between them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from shardproof.proving.cause import Mend
from shardproof.proving.evidence import Agreement
from shardproof.proving.records import ACTIVATIONS, OF_PARAMETERS, Phase
from shardproof.report.page.description import Cell, Chip, ModuleRow, StepPicture, Tone, Traffic
from shardproof.report.page.shards import draw_shards
from shardproof.report.page.tones import tone_of, tone_of_agreement, worst
from shardproof.report.page.traffic import merge_traffic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardproof.proving.evidence import Activation, Evidence
    from shardproof.proving.findings import Finding, Proof
    from shardproof.proving.records import CollectiveCall, Key

_MOST_ROWS = 400
_FORWARD = frozenset({Phase.INPUT, Phase.OUTPUT})


@dataclass(slots=True, kw_only=True)
class _Module:
    """What was recorded of one module in one step."""

    order: int
    forward: list[Activation] = field(default_factory=list)
    backward: list[Activation] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    calls_forward: list[CollectiveCall] = field(default_factory=list)
    calls_backward: list[CollectiveCall] = field(default_factory=list)


def draw_step(proof: Proof, ids: Mapping[Key, str]) -> StepPicture | None:
    """The step of the first cause, or the first one; None without evidence."""
    evidence = proof.evidence
    if evidence is None or not evidence.activations:
        return None
    first = next((finding.key for finding in proof.roots if finding.failed), None)
    steps = {one.key.step for one in evidence.activations}
    step = first.step if first is not None and first.step in steps else min(steps)
    modules = _collect(proof, evidence, step)
    names = _order(modules)
    missing = _missing(proof, first)
    rows = [_draw(name, modules, ids, first, missing) for name in names[:_MOST_ROWS]]
    rows += _results(proof, step, ids, first)
    return StepPicture(
        step=step + 1,
        rows=tuple(rows),
        left_out=max(0, len(names) - _MOST_ROWS),
        words=_say(proof, modules),
    )


def _collect(proof: Proof, evidence: Evidence, step: int) -> dict[str, _Module]:
    modules: dict[str, _Module] = {}

    def module(name: str) -> _Module:
        return modules.setdefault(name, _Module(order=len(modules)))

    for one in evidence.activations:
        if one.key.step == step:
            name = name_module(one.key)
            (module(name).forward if one.key.phase in _FORWARD else module(name).backward).append(one)
    places = _places(evidence, proof, step)
    for call in evidence.collectives:
        if call.step == step:
            name, backward = places.get(call.location, ("", False))
            if name:
                found = module(name)
                (found.calls_backward if backward or call.recomputed else found.calls_forward).append(call)
    for finding in proof.findings:
        if finding.key.step == step and finding.key.phase in OF_PARAMETERS:
            module(_owner(finding.key.name, modules)).findings.append(finding)
    return modules


def name_module(key: Key) -> str:
    """The module of an activation: one of several outputs, and a function inside it, belong to it."""
    return key.name.partition("[")[0].partition("/")[0]


def _owner(parameter: str, modules: Mapping[str, _Module]) -> str:
    name = parameter.partition("/")[0].rpartition(".")[0]
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or "model"


def _places(evidence: Evidence, proof: Proof, step: int) -> dict[str, tuple[str, bool]]:
    """The module of each place of a collective, and whether it is in the backward; see `CollectiveCall.location`."""
    places: dict[str, tuple[str, bool]] = {"at the beginning": ("model", False)}
    names = {name_module(one.key) for one in evidence.activations}
    parents = {name.rpartition(".")[0] for name in names} | {"model"}
    places |= {f"in {name}": (name, False) for name in names | parents if name}
    for one in evidence.activations:
        backward = one.key.phase not in _FORWARD
        places[f"after {one.key.phase} {one.key.name}"] = (name_module(one.key), backward)
    for finding in proof.findings:
        if finding.key.step == step and finding.key.phase not in ACTIVATIONS:
            owner = finding.key.name.partition("/")[0].rpartition(".")[0] or "model"
            places[f"after {finding.key.phase} {finding.key.name}"] = (owner, True)
    return places


def _order(modules: Mapping[str, _Module]) -> list[str]:
    """A module stands before those inside it, and these in execution order."""
    first: dict[str, int] = defaultdict(lambda: len(modules))
    for name, module in modules.items():
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            ancestor = ".".join(parts[:depth])
            first[ancestor] = min(first[ancestor], module.order)

    def position(name: str) -> list[tuple[int, str]]:
        parts = name.split(".")
        return [(first[".".join(parts[:depth])], parts[depth - 1]) for depth in range(1, len(parts) + 1)]

    return sorted(modules, key=position)


def _draw(
    name: str,
    modules: Mapping[str, _Module],
    ids: Mapping[Key, str],
    first: Key | None,
    missing: Mapping[str, tuple[Traffic | None, Traffic | None]],
) -> ModuleRow:
    module = modules[name]
    chips = _chips(module.findings, ids, first)
    forward = _cells(module.forward, Phase.OUTPUT, ids, first)
    backward = _cells(module.backward, Phase.OUTPUT_GRADIENT, ids, first)
    above = [one for one in _ancestors(name) if one in modules]
    lacking = missing.get(name, (None, None))
    return ModuleRow(
        name=name,
        label=name.removeprefix(f"{above[-1]}.") if above else name,
        depth=len(above),
        forward=forward,
        backward=backward,
        parameters=chips,
        forward_traffic=(*merge_traffic(module.calls_forward), *(one for one in lacking[:1] if one)),
        backward_traffic=(*merge_traffic(module.calls_backward), *(one for one in lacking[1:] if one)),
        first=any(one.first for one in chips) or any(one.first for one in (*forward, *backward)),
    )


def _ancestors(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


# What would mend a first cause: the collective that is missing, and whether it is in the backward.
_MISSING: Mapping[Mend, tuple[str, bool]] = {
    Mend.ALL_REDUCE_GRADIENT: ("all-reduce", True),
    Mend.ALL_REDUCE_IN_BACKWARD: ("all-reduce", True),
    Mend.ALL_REDUCE_IN_FORWARD: ("all-reduce", False),
    Mend.AVERAGE_GRADIENT: ("average", True),
}


def _missing(proof: Proof, first: Key | None) -> dict[str, tuple[Traffic | None, Traffic | None]]:
    """By module, the collective of the forward and the one of the backward that a first cause lacks."""
    found: dict[str, tuple[Traffic | None, Traffic | None]] = {}
    for finding in proof.roots:
        known = _MISSING.get(finding.cause.mend) if finding.cause is not None and finding.cause.mend else None
        if known is None or first is None or finding.key.step != first.step or not finding.failed:
            continue
        kind, backward = known
        words = f"{kind} over {' and '.join(finding.cause.axes) if finding.cause else ''} is missing here"
        traffic = Traffic(kind=kind, count=1, size="missing", words=words, missing=True)
        key = finding.key
        owner = name_module(key) if key.phase in ACTIVATIONS else key.name.partition("/")[0].rpartition(".")[0]
        found[owner or "model"] = (None, traffic) if backward else (traffic, None)
    return found


def _cells(
    activations: Sequence[Activation], main: Phase, ids: Mapping[Key, str], first: Key | None
) -> tuple[Cell, ...]:
    """The first activation of a module that is wrong; without one, its largest output, or the gradient of that."""
    outputs = [one for one in activations if one.key.phase is main and "/" not in one.key.name] or list(activations)
    wrong = [one for one in activations if one.agreement is Agreement.DIFFERENT]
    largest = sorted(outputs, key=lambda one: -prod(one.shards.shape) if one.shards is not None else 0)
    return tuple(_cell(one, ids, first) for one in (wrong or largest)[:1])


def _cell(one: Activation, ids: Mapping[Key, str], first: Key | None) -> Cell:
    shards = draw_shards(one.shards)
    shape = "" if one.shards is None else " x ".join(map(str, one.shards.shape)) or "scalar"
    held = f"; {shards.words}" if shards is not None else ""
    return Cell(
        tone=tone_of_agreement(one.agreement),
        words=f"{one.key.phase} {one.key.name}: {one.agreement}{held}",
        href=f"#{ids[one.key]}" if one.key in ids else "",
        shape=shape,
        shards=shards,
        first=one.key == first,
        follows=one.agreement is Agreement.DIFFERENT and one.key != first,
    )


def _chips(findings: Sequence[Finding], ids: Mapping[Key, str], first: Key | None) -> tuple[Chip, ...]:
    by_parameter: dict[str, list[Finding]] = {}
    for finding in findings:
        by_parameter.setdefault(finding.key.name.partition("/")[0], []).append(finding)
    chips = []
    for name, group in by_parameter.items():
        tone = worst(map(tone_of, group))
        told = next((one for one in group if one.root and one.failed), None)
        told = told or next((one for one in group if tone_of(one) is tone), group[0])
        right = "gradient, state and update are right" if tone is Tone.GOOD else f"{told.key.phase} {told.verdict}"
        chips.append(
            Chip(
                name=name.rpartition(".")[2],
                tone=tone,
                words=f"{name}: {right}",
                href=f"#{ids[told.key]}",
                first=any(one.key == first for one in group),
                follows=tone is Tone.BAD and not any(one.root and one.failed for one in group),
            )
        )
    return tuple(chips)


def _results(proof: Proof, step: int, ids: Mapping[Key, str], first: Key | None) -> list[ModuleRow]:
    """The loss and the gradient norm, at the end of the forward and of the backward."""
    rows = []
    for phase in (Phase.LOSS, Phase.NORM):
        for finding in proof.findings:
            if finding.key.step == step and finding.key.phase is phase:
                cell = Cell(
                    tone=tone_of(finding),
                    words=f"{finding.key}: {finding.verdict}",
                    href=f"#{ids[finding.key]}",
                    shape="scalar",
                    first=finding.key == first,
                    follows=finding.failed and not finding.root,
                )
                passes = {"forward" if phase is Phase.LOSS else "backward": (cell,)}
                rows.append(
                    ModuleRow(name=str(phase), label=str(phase), depth=0, first=cell.first, **passes)  # type: ignore[arg-type]
                )
    return rows


def _say(proof: Proof, modules: Mapping[str, _Module]) -> str:
    calls = [call for one in modules.values() for call in (*one.calls_forward, *one.calls_backward)]
    forward = sum(len(one.calls_forward) for one in modules.values())
    return (
        f"{len(modules)} modules on {proof.devices} ranks; {len(calls)} collectives, {forward} of them in the forward "
        f"and {len(calls) - forward} in the backward."
    )
