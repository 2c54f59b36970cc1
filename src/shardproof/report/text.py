"""A proof as text for a terminal: the answer, first causes, what follows from them, what is drawn, bounds, numbers.

The summary fits a screen; `verbose` has every group, and every tensor in a line of its own.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING

from shardproof.proving.findings import Verdict
from shardproof.report.first_causes import list_first_causes, tell_cause
from shardproof.report.grouping import group_findings
from shardproof.report.headline import describe_ranks, name_answer
from shardproof.report.notes import list_notes, list_sharding_notes
from shardproof.report.styles import style_verdict, unstyled
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from shardproof.proving.findings import Finding, Proof
    from shardproof.report.styles import Style

MOST_GROUPS = 5  # of first causes, of what is allowed and of what is drawn, each


def render_text(proof: Proof, *, verbose: bool = False, colour: bool = False) -> str:
    """The report; names are printed with control characters escaped.

    Args:
        proof: what is reported.
        verbose: all groups, and a line for each tensor.
        colour: verdicts in colours of a terminal (ANSI).
    """
    style = style_verdict if colour else unstyled
    return "\n".join(_lines(proof, style, most=None if verbose else MOST_GROUPS, verbose=verbose))


def _lines(proof: Proof, style: Style, *, most: int | None, verbose: bool) -> Iterator[str]:
    counts = Counter(finding.verdict for finding in proof.findings)
    told = ", ".join(f"{count} {style(verdict, verdict.ok)}" for verdict, count in sorted(counts.items()))
    yield f"{style(name_answer(proof), proof.ok)}: {len(proof.findings)} tensors: {told}"
    primes = f"{proof.trials} trial{'s' * (proof.trials != 1)}, primes {', '.join(map(str, proof.primes))}"
    kind = primes if proof.trials else "numbers only, no exact arithmetic"
    yield f"{_said_split(proof)}{describe_ranks(proof)}, {kind}"
    if proof.trials:
        yield f"Probed with: {proof.probes}."
    yield from list_sharding_notes(proof)
    yield from _cause_lines(proof, style, most)
    yield from _allowed_lines(proof, style, most)
    follows = [finding for finding in proof.findings if finding.failed and not finding.root]
    if follows:
        yield ""
        yield "What follows from them:"
        yield from _follow_lines(follows, style)
    drawn = [finding for finding in proof.findings if finding.verdict is Verdict.DRAWN]
    if drawn:
        yield ""
        yield "Drawn by the ranks for themselves, which is not wrong:"
        groups = group_findings(drawn)
        yield from _first_of((f"  {group.title}: {tell_cause(group.first, proof.mesh)}." for group in groups), most)
    yield ""
    yield from list_notes(proof)
    if verbose:
        yield ""
        yield "All tensors, in execution order:"
        yield from (_tensor_line(finding, style) for finding in proof.findings)


def _said_split(proof: Proof) -> str:
    sharding = proof.sharding
    return "" if sharding is None else f"{sharding.split} of {sharding.parameters} parameters split, "


def _cause_lines(proof: Proof, style: Style, most: int | None) -> Iterator[str]:
    causes = list_first_causes(proof)
    if causes:
        yield ""
        yield "First causes:"
    for cause in islice(causes, most):
        verdict = cause.group.first.verdict
        yield f"  {cause.group.title}: {style(verdict, verdict.ok)}"
        yield from (f"    {sentence}" for sentence in cause.sentences)
    yield from _rest(len(causes), most, "first cause")


def _allowed_lines(proof: Proof, style: Style, most: int | None) -> Iterator[str]:
    for pattern in dict.fromkeys(finding.allowed for finding in proof.findings if finding.allowed):
        yield ""
        yield f"Allowed by {printable(pattern)!r}:"
        groups = group_findings([finding for finding in proof.findings if finding.allowed == pattern])
        yield from _first_of((f"  {group.title}: {style(group.first.verdict, False)}" for group in groups), most)
    for pattern in proof.unused:
        yield f"Nothing needs {printable(pattern)!r} any more: take it out of what is allowed."


def _first_of(lines: Iterable[str], most: int | None) -> Iterator[str]:
    told = list(lines)
    yield from islice(told, most)
    yield from _rest(len(told), most, "group")


def _rest(count: int, most: int | None, what: str) -> Iterator[str]:
    """How many are not shown, and what shows them."""
    if most is not None and count > most:
        yield f"  and {count - most} more {what}{'s' * (count - most != 1)}: `-v` has all"


def _follow_lines(follows: Sequence[Finding], style: Style) -> Iterator[str]:
    """One line for each step and phase: of what follows, only how much there is matters."""
    counts = Counter((finding.key.step, finding.key.phase, finding.verdict) for finding in follows)
    for (step, phase, verdict), count in counts.items():
        yield f"  step {step + 1}, {phase}: {count} {style(verdict, verdict.ok)}"


def _tensor_line(finding: Finding, style: Style) -> str:
    differs = f", {finding.differing} of {finding.elements} elements differ" if finding.differing else ""
    root = ", a first cause" if finding.root else ""
    bound = "" if finding.false_accept is None else f", by chance at most {finding.false_accept:.1g}"
    verdict = style(finding.verdict, finding.verdict.ok)
    return f"  {printable(str(finding.key))}: {verdict}{differs}{root}{bound}"
