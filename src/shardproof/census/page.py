"""The page of a census: docs/census.md, made of its results alone."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import TYPE_CHECKING

from shardproof.census.results import BASE, Case, Outcome, Result, keep_latest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_MEANINGS = {
    Outcome.PROVED: "every tensor of the step is the single device's",
    Outcome.LOADED: "loaded sharded from a checkpoint and saved again, each element is where it belongs, once",
    Outcome.VACUOUS: "nothing differs; some tensors could not have told (parameters without a gradient)",
    Outcome.WRONG: "some tensor is not the single device's",
    Outcome.CRASH: "its own code fails on ranks, and runs on one device",
    Outcome.ONE_DEVICE: "its own code does not run on one device with the sizes of the rule",
    Outcome.UNDECIDED: "the digits differ, float64 agrees",
    Outcome.UNSUPPORTED: "exact arithmetic has no rule for an op",
    Outcome.REFUSED: "shardproof cannot build or feed it",
    Outcome.TIMEOUT: "not done in time",
    Outcome.MEMORY: "not done in the memory allowed",
    Outcome.DIED: "its process died",
    Outcome.NOT_RUN: "has no result yet",
}

_OURS = (Outcome.UNSUPPORTED, Outcome.REFUSED, Outcome.TIMEOUT, Outcome.MEMORY, Outcome.DIED)


def render_page(
    results: Iterable[Result],
    kinds: Iterable[str],
    mesh: Mapping[str, int] | None = None,
    *,
    wrappers: bool = False,
) -> str:
    """The page as Markdown: counts, the types that are wrong with their causes, and every type with its outcome.

    Args:
        results: of which the last of each type and variant counts.
        kinds: all model types; one without a result is listed as not run.
        mesh: the sizes of the axes by name, where they are not one axis tp.
        wrappers: whether the types are those with a section that has a plan.
    """
    results = [Result(case=Case(kind=kind), outcome=Outcome.NOT_RUN) for kind in kinds] + list(results)
    latest = sorted(
        keep_latest(results).values(), key=lambda one: (one.case.kind, one.case.variant != BASE, one.case.variant)
    )
    return "\n".join(_lines(latest, mesh or {}, wrappers=wrappers)) + "\n"


def count_outcomes(results: Iterable[Result]) -> Counter[Outcome]:
    """How many types have each outcome in their default variant."""
    return Counter(one.outcome for one in results if one.case.variant == BASE)


def _lines(results: Sequence[Result], mesh: Mapping[str, int], *, wrappers: bool) -> Iterator[str]:
    counts = count_outcomes(results)
    variants = Counter(one.outcome for one in results if one.case.variant != BASE)
    plan = "expert-parallel" if "ep" in mesh else "tensor-parallel"
    options = (" --wrappers" if wrappers else "") + (f" --mesh {_write_mesh(mesh)}" if mesh else "")
    yield f"# Census of transformers' {plan} plans" + (" in sections" if wrappers else "")
    yield ""
    made = f"Made by `shardproof census{options}`"
    article = "an" if plan.startswith("e") else "a"
    where = "a section with " if wrappers else ""
    yield f"{made}; do not edit. Each model type of transformers whose configuration has {where}{article}"
    if wrappers:
        yield f"{plan} plan, and none of its own (a model of images and text is split where its text model is),"
        yield "is built small, without weights, and one training step of it (forward, backward,"
    else:
        yield f"{plan} plan is built small, without weights, and one training step of it (forward, backward,"
    yield f"clipping, SGD) is proved on {_describe_run(results, mesh)}."
    yield "[transformers.md](transformers.md) says how sizes are chosen."
    minutes = sum(one.seconds for one in results) / 60
    if minutes:
        yield f"All processes together, `--jobs` of them at once, took {minutes:.0f} minutes."
    yield ""
    yield "| outcome | types | variants | meaning |"
    yield "|---|---:|---:|---|"
    for outcome, meaning in _MEANINGS.items():
        if counts[outcome] or variants[outcome]:
            yield f"| {outcome} | {counts[outcome]} | {variants[outcome]} | {meaning} |"
    yield f"| total | {counts.total()} | {variants.total()} | |"
    for outcome, title in (
        (Outcome.WRONG, "Wrong"),
        (Outcome.CRASH, "Failing when sharded"),
        (Outcome.UNDECIDED, "Undecided"),
    ):
        yield from _section(title, [one for one in results if one.outcome is outcome])
    yield from _section("Not decided", [one for one in results if one.outcome in _OURS])
    yield from _section("Not running on one device", [one for one in results if one.outcome is Outcome.ONE_DEVICE])
    yield ""
    yield "## Every type"
    yield ""
    yield "| type | variant | class | outcome | tensors |"
    yield "|---|---|---|---|---:|"
    for one in results:
        tensors = sum(one.counts.values()) or ""
        yield f"| {one.case.kind} | {one.case.variant} | {one.model} | {one.outcome} | {tensors} |"


def _write_mesh(mesh: Mapping[str, int]) -> str:
    return ",".join(f"{name}={size}" for name, size in mesh.items())


def _describe_run(results: Sequence[Result], mesh: Mapping[str, int]) -> str:
    devices = [prod(mesh.values())] if mesh else sorted({one.case.devices for one in results})
    versions = sorted(
        {f"{name} {version}" for one in results for name, version in one.versions.items() if name != "shardproof"}
    )
    return f"{', '.join(map(str, devices))} ranks, with {', '.join(versions)}"


def _section(title: str, results: Sequence[Result]) -> Iterator[str]:
    if not results:
        return
    yield ""
    yield f"## {title}"
    for one in results:
        variant = "" if one.case.variant == BASE else f", {one.case.variant}"
        yield ""
        yield f"- **{one.case.kind}**{variant} ({one.model or 'not built'}): {one.outcome}"
        for cause in (*one.causes, *([one.said] if one.said else [])):
            yield f"  - {_escape(cause)}"
        for pattern, style in one.suggested.items():
            yield f"  - would be mended by the entry `{pattern}: {style}`; the same proof with it: {one.mended}"
        if one.outcome is Outcome.WRONG and one.case.suggest and not one.suggested:
            yield f"  - no single entry found of {one.tried} tried"


def _escape(text: str) -> str:
    """Text of models and errors as Markdown shows it: nothing in it is markup."""
    return "".join(f"\\{char}" if char in "*_`<>[]|" else char for char in text)
