"""The tone of verdicts and of activations, and their meaning in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.proving.evidence import Agreement
from shardproof.proving.findings import Verdict
from shardproof.report.page.description import Tone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shardproof.proving.findings import Finding

_OF_VERDICTS: Mapping[Verdict, Tone] = {
    Verdict.PROVED: Tone.GOOD,
    Verdict.ROUNDING: Tone.GOOD,
    Verdict.DRAWN: Tone.PLAIN,
    Verdict.WRONG: Tone.BAD,
    Verdict.UNDECIDED: Tone.OPEN,
    Verdict.VACUOUS: Tone.OPEN,
    Verdict.UNSUPPORTED: Tone.OPEN,
}
_OF_AGREEMENTS: Mapping[Agreement, Tone] = {
    Agreement.EQUAL: Tone.GOOD,
    Agreement.PARTIAL: Tone.OPEN,
    Agreement.DIFFERENT: Tone.BAD,
    Agreement.NOT_COMPARED: Tone.PLAIN,
}
MEANINGS: Mapping[Verdict, str] = {
    Verdict.PROVED: "the same as on one device, in every trial",
    Verdict.ROUNDING: "within the rounding noise of one device; proves nothing",
    Verdict.DRAWN: "random numbers of the ranks' own, and nothing wrong in them",
    Verdict.WRONG: "not what one device computes",
    Verdict.UNDECIDED: "differs in exact arithmetic and agrees in float64",
    Verdict.VACUOUS: "the comparison could not have told a wrong value",
    Verdict.UNSUPPORTED: "both sides divide by zero in every trial",
}
_WORST = (Tone.BAD, Tone.OPEN, Tone.GOOD, Tone.PLAIN)


def tone_of(finding: Finding) -> Tone:
    """Of a finding; what the user has allowed is plain."""
    return Tone.PLAIN if finding.allowed else _OF_VERDICTS[finding.verdict]


def tone_of_verdict(verdict: Verdict) -> Tone:
    """Of a verdict."""
    return _OF_VERDICTS[verdict]


def tone_of_agreement(agreement: Agreement) -> Tone:
    """Of an activation."""
    return _OF_AGREEMENTS[agreement]


def worst(tones: Iterable[Tone]) -> Tone:
    """The worst of several; plain without any."""
    found = set(tones)
    return next((tone for tone in _WORST if tone in found), Tone.PLAIN)
