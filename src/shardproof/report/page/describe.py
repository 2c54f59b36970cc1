"""A proof described as the values of its page. Nothing is decided later, in a template."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from shardproof.proving.findings import Verdict
from shardproof.report.first_causes import list_first_causes
from shardproof.report.headline import describe_ranks, name_answer
from shardproof.report.json import installed_versions
from shardproof.report.notes import list_notes, list_sharding_notes, say_points
from shardproof.report.page.description import CauseCard, Fact, ProofPage, Tone
from shardproof.report.page.embedding import compress
from shardproof.report.page.noise_plot import draw_plot
from shardproof.report.page.probability import compare_to_coins, say_odds
from shardproof.report.page.step_picture import draw_step
from shardproof.report.page.tensors import list_tensors, name_phase
from shardproof.report.page.tones import tone_of, tone_of_verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shardproof.proving.findings import Proof
    from shardproof.proving.records import Key

_MOST_CAUSES = 20
_MANY = 2000  # tensors


def describe_proof(proof: Proof, *, subject: str = "", certificate: str = "") -> ProofPage:
    """Describe the page of a proof.

    Args:
        proof: with evidence, if the step is to be drawn.
        subject: what was proved, as the user named it.
        certificate: the proof as JSON, to be embedded; empty for none.
    """
    listed = list_tensors(proof)
    causes = list_first_causes(proof)
    counts = Counter(finding.verdict for finding in proof.findings)
    return ProofPage(
        title=f"{name_answer(proof).capitalize()}: {subject or 'a training step'}",
        answer=_answer(proof),
        tone=_tone(proof),
        sentence=_sentence(proof, counts),
        subject=subject,
        facts=tuple(_facts(proof)),
        causes=tuple(_cards(proof, listed.ids)),
        more_causes=max(0, len(causes) - _MOST_CAUSES),
        follows=_follows(proof),
        picture=draw_step(proof, listed.ids),
        plot=draw_plot(proof, listed.ids),
        sections=listed.sections,
        verdicts=tuple((str(verdict), tone_of_verdict(verdict), count) for verdict, count in sorted(counts.items())),
        phases=tuple(dict.fromkeys(section.phase for section in listed.sections)),
        notes=tuple(_notes(proof)),
        about=tuple(_about(proof)),
        values=listed.values,
        compact=len(proof.findings) > _MANY,
        certificate=compress(certificate) if certificate else "",
    )


def _answer(proof: Proof) -> str:
    if proof.trials:
        return "Proved" if proof.ok else "Not proved"
    return "Within rounding" if proof.ok else "Not within rounding"


def _tone(proof: Proof) -> Tone:
    if proof.ok:
        return Tone.GOOD
    wrong = any(finding.failed and finding.verdict is Verdict.WRONG for finding in proof.findings)
    return Tone.BAD if wrong else Tone.OPEN


def _sentence(proof: Proof, counts: Mapping[Verdict, int]) -> str:
    """The answer in one sentence."""
    ranks, total = describe_ranks(proof), len(proof.findings)
    if not proof.trials:
        inside = "within" if proof.ok else "not all within"
        return f"On {ranks} the numbers are {inside} the rounding noise of one device. Numbers alone prove nothing."
    if proof.ok:
        allowed = f", and {proof.count.allowed} are allowed" if proof.count.allowed else ""
        return f"Split over {ranks}, this training step is still the single-device step{allowed}."
    wrong = counts.get(Verdict.WRONG, 0)
    if wrong:
        first = sum(one.failed and one.root and one.verdict is Verdict.WRONG for one in proof.findings)
        which = f"{first} of {total} tensors go" if first > 1 else f"one of {total} tensors goes"
        rest = f", and {wrong - first} more follow" if wrong > first else ""
        return f"Split over {ranks}, this is no longer the single-device step: {which} wrong{rest}."
    return f"Split over {ranks}, {proof.count.failed} of {total} tensors could not be shown to be right."


def _facts(proof: Proof) -> Iterator[Fact]:
    passed, total = proof.count.passed, len(proof.findings)
    said = "losses, gradients, optimizer states and updates"
    yield Fact(
        label="tensors agree" if proof.trials else "tensors within rounding",
        value=f"{passed} of {total}",
        meaning=f"{said}, each compared to the last digit" if proof.trials else f"{said}, numbers only",
        share=passed / total if total else 0.0,
    )
    if proof.sharding is not None:
        split, parameters = proof.sharding.split, proof.sharding.parameters
        yield Fact(
            label="parameters are split",
            value=f"{split} of {parameters}",
            meaning="the others are whole on every rank",
            share=split / parameters if parameters else 0.0,
        )
    yield Fact(
        label="rank" if proof.devices == 1 else "ranks",
        value=str(proof.devices),
        meaning="mesh " + " x ".join(f"{name} {size}" for name, size in proof.mesh.items()),
    )
    yield from _chance(proof)


def _chance(proof: Proof) -> Iterator[Fact]:
    proved = [finding for finding in proof.findings if finding.verdict is Verdict.PROVED]
    bounds = [finding.false_accept for finding in proved if finding.false_accept is not None]
    if not bounds or (len(bounds) < len(proved) and not max(bounds)):
        if proof.trials and proved:
            yield Fact(
                label="random point agrees" if proof.trials == 1 else "random points agree",
                value=str(proof.trials),
                meaning="no bound is derived on the chance that a wrong tensor agrees at all of them",
            )
        return
    largest = max(bounds)
    rest = len(proved) - len(bounds)
    others = f"; {rest} tensors agree at {say_points(proof.trials)} without a derived bound" if rest else ""
    yield Fact(
        label="at most, the chance of a false 'proved'",
        value=say_odds(largest),
        meaning=f"for each tensor: {compare_to_coins(largest) or 'their equality is certain'}{others}",
    )


def _cards(proof: Proof, ids: Mapping[Key, str]) -> Iterator[CauseCard]:
    for cause in list_first_causes(proof)[:_MOST_CAUSES]:
        first = cause.group.first
        many = f", {len(cause.group.findings)} tensors" if len(cause.group.findings) > 1 else ""
        yield CauseCard(
            title=f"Step {first.key.step + 1}, {first.key.phase}{many}",
            names=cause.group.pattern,
            verdict=str(first.verdict),
            tone=tone_of(first),
            cause=cause.cause[:1].upper() + cause.cause[1:],
            mend=cause.mend,
            details=cause.details,
            href=f"#{ids[first.key]}",
        )


def _follows(proof: Proof) -> str:
    """How much follows from the first causes."""
    counts = Counter(one.key.phase for one in proof.findings if one.failed and not one.root)
    if not counts:
        return ""
    told = ", ".join(f"{count} {name_phase(phase, count)}" for phase, count in counts.items())
    return f"From that {sum(counts.values())} more findings follow: {told}."


def _notes(proof: Proof) -> Iterator[str]:
    yield from list_sharding_notes(proof)
    for pattern in proof.unused:
        yield f"Nothing needs {pattern!r} any more: take it out of what is allowed."
    yield from list_notes(proof)
    if proof.evidence is not None and proof.evidence.left_out:
        yield f"The values of {proof.evidence.left_out} more tensors that are not right are left out of this page."


def _about(proof: Proof) -> Iterator[tuple[str, str]]:
    if proof.trials:
        yield "Trials", f"{proof.trials}, modulo the primes {', '.join(map(str, proof.primes))}"
        yield "Probed with", proof.probes
    yield "Mesh", ", ".join(f"{name}={size}" for name, size in proof.mesh.items())
    if proof.data_axes:
        yield "Data axes", ", ".join(proof.data_axes)
    if proof.native is not None:
        yield "Own dtypes", proof.native.dtype
    yield "Versions", ", ".join(f"{name} {version}" for name, version in installed_versions().items() if version)
