"""The list of tensors: a section for each step and phase, a row for each tensor."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.proving.records import ACTIVATIONS, OF_PARAMETERS, Phase
from shardproof.report.first_causes import tell_cause
from shardproof.report.page.description import TensorRow, TensorSection
from shardproof.report.page.heat_maps import describe_maps
from shardproof.report.page.probability import say_odds
from shardproof.report.page.shards import describe_shards, draw_shards
from shardproof.report.page.tones import MEANINGS, tone_of, tone_of_agreement, worst
from shardproof.report.words import describe_mend, describe_unbounded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shardproof.proving.evidence import Activation, Evidence, ShardMap
    from shardproof.proving.findings import Finding, Proof
    from shardproof.proving.records import Key

MOST_ACTIVATIONS = 2000
_MOST_OPEN = 3  # first causes that are open from the beginning


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorList:
    """The sections, where each tensor is in the page, and the cells of its heat maps."""

    sections: tuple[TensorSection, ...]
    ids: Mapping[Key, str]
    values: Mapping[str, Mapping[str, str]]


def list_tensors(proof: Proof) -> TensorList:
    """Every finding in execution order, then the activations that are no finding, because they are right."""
    ids = {finding.key: f"t{number}" for number, finding in enumerate(proof.findings)}
    seen = () if proof.evidence is None else proof.evidence.activations
    others = [one for one in seen if one.key not in ids][:MOST_ACTIVATIONS]
    ids |= {one.key: f"a{number}" for number, one in enumerate(others)}
    values: dict[str, Mapping[str, str]] = {}
    sections = [*_finding_sections(proof, ids, values), *_activation_sections(others, ids)]
    return TensorList(sections=tuple(sections), ids=ids, values=values)


def _finding_sections(
    proof: Proof, ids: Mapping[Key, str], values: dict[str, Mapping[str, str]]
) -> Iterator[TensorSection]:
    groups: dict[tuple[int, Phase], list[Finding]] = {}
    for finding in proof.findings:
        groups.setdefault((finding.key.step, finding.key.phase), []).append(finding)
    opened = [finding.key for finding in proof.roots if finding.failed][:_MOST_OPEN]
    for (step, phase), findings in groups.items():
        counts = Counter(finding.verdict for finding in findings)
        yield TensorSection(
            title=f"Step {step + 1}: {name_phase(phase)}",
            phase=str(phase),
            counts=", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())),
            tone=worst(map(tone_of, findings)),
            open=any(finding.key in opened for finding in findings),
            rows=tuple(_describe(finding, proof, ids[finding.key], opened, values) for finding in findings),
        )


def name_phase(phase: Phase, count: int = 2) -> str:
    """The name of a phase, for so many tensors: 'gradients'."""
    same = (Phase.SHARDING, Phase.COLLECTIVES, Phase.LOSS, Phase.NORM)
    plurals = {Phase.LOSS: "losses", Phase.NORM: "gradient norms"}
    if count == 1 or phase in same:
        return plurals.get(phase, str(phase)) if count > 2 else str(phase)
    return f"{phase}s"


def _describe(
    finding: Finding, proof: Proof, id_: str, opened: Sequence[Key], values: dict[str, Mapping[str, str]]
) -> TensorRow:
    samples = () if proof.evidence is None else proof.evidence.samples.get(finding.key, ())
    maps, cells = describe_maps(id_, samples)
    values.update(cells)
    shards = find_shards(proof.evidence, finding.key)
    return TensorRow(
        id=id_,
        name=finding.key.name,
        call=f"call {finding.key.call + 1}" if finding.key.call else "",
        verdict=str(finding.verdict),
        tone=tone_of(finding),
        root=finding.root and finding.failed,
        open=finding.key in opened,
        said=tell_cause(finding, proof.mesh),
        facts=list_facts(finding, shards),
        shards=draw_shards(shards),
        maps=maps,
    )


def find_shards(evidence: Evidence | None, key: Key) -> ShardMap | None:
    """Which part of a tensor each rank holds, where that is known: a gradient is held as its parameter is."""
    if evidence is None:
        return None
    if key.phase in OF_PARAMETERS:
        return evidence.parameters.get(key.name.partition("/")[0])
    return next((one.shards for one in evidence.activations if one.key == key), None)


def list_facts(finding: Finding, shards: ShardMap | None = None) -> tuple[tuple[str, str], ...]:
    """What is known of a finding beside its cause: names and values."""
    return tuple(_facts(finding, shards))


def _facts(finding: Finding, shards: ShardMap | None) -> Iterator[tuple[str, str]]:
    yield "Finding", f"{finding.verdict}: {MEANINGS[finding.verdict]}"
    if finding.allowed:
        yield "Allowed by", finding.allowed
    if finding.cause is not None and finding.cause.mend:
        yield "What would mend it", describe_mend(finding.cause)
    if finding.source_line:
        yield "Called at", finding.source_line
    if finding.differing:
        ranks = ", ".join(map(str, finding.ranks))
        yield "Differs", f"{finding.differing} of {finding.elements} elements, on rank {ranks}"
    elif finding.elements:
        yield "Elements", f"{finding.elements} over all ranks"
    if shards is not None and shards.boxes:
        yield "Layout", f"shape {_shape(shards.shape)}, {describe_shards(shards)}"
    if finding.elements and finding.key.phase not in ACTIVATIONS and finding.probed:
        yield "Probed", f"{finding.probed} of {finding.elements} elements were not zero in some trial"
    if finding.false_accept is not None:
        yield "Equal by chance", f"at most {say_odds(finding.false_accept)} ({finding.false_accept:.2g})"
    if finding.unbounded is not None:
        yield "No bound", f"{describe_unbounded(finding.unbounded)}; it is lost at {finding.unbounded.at}"
    yield from _number_facts(finding)


def _number_facts(finding: Finding) -> Iterator[tuple[str, str]]:
    if finding.rounding is not None:
        yield "In float64", f"{finding.rounding.maxdiff:.3g} off; rounding noise is {finding.rounding.noise:.3g}"
    numbers = finding.numbers
    if numbers is not None:
        if numbers.no_reference:
            yield "In its own dtype", "one device computes NaN or infinity here"
        else:
            same = "equal, " if numbers.exact else ""
            yield (
                "In its own dtype",
                f"{same}{numbers.error:.3g} from float64, {numbers.ratio:.2g} times the rounding noise",
            )


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _activation_sections(activations: Sequence[Activation], ids: Mapping[Key, str]) -> Iterator[TensorSection]:
    groups: dict[tuple[int, Phase], list[Activation]] = {}
    for one in activations:
        groups.setdefault((one.key.step, one.key.phase), []).append(one)
    for (step, phase), group in groups.items():
        counts = Counter(one.agreement for one in group)
        yield TensorSection(
            title=f"Step {step + 1}: {name_phase(phase)} of modules",
            phase=str(phase),
            counts=", ".join(f"{count} {agreement}" for agreement, count in counts.items()),
            tone=worst(tone_of_agreement(one.agreement) for one in group),
            open=False,
            rows=tuple(_describe_activation(one, ids[one.key]) for one in group),
            hint="Activations are compared to find the first place that is wrong; right ones are no findings.",
        )


def _describe_activation(one: Activation, id_: str) -> TensorRow:
    facts = [("First trial", f"{one.agreement}: {AGREEMENTS[one.agreement]}")]
    if one.shards is not None:
        facts.append(("Layout", f"shape {_shape(one.shards.shape)}, {describe_shards(one.shards)}"))
    return TensorRow(
        id=id_,
        name=one.key.name,
        call=f"call {one.key.call + 1}" if one.key.call else "",
        verdict=str(one.agreement),
        tone=tone_of_agreement(one.agreement),
        root=False,
        open=False,
        said="",
        facts=tuple(facts),
        shards=draw_shards(one.shards),
    )


AGREEMENTS = {
    "equal": "what the ranks hold is what one device has",
    "partial": "each rank holds a part of a sum, and the sum is right",
    "different": "what the ranks hold is not what one device has",
    "not compared": "which part each rank holds cannot be inferred",
}
