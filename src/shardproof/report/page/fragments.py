"""What a notebook shows of a proof, a finding or a comparison: a piece of HTML without scripts, names escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.report.first_causes import list_first_causes, tell_cause
from shardproof.report.page.describe import describe_proof
from shardproof.report.page.description import Tone
from shardproof.report.page.render import render_fragment
from shardproof.report.page.tensors import list_facts
from shardproof.report.page.tones import tone_of
from shardproof.report.text import MOST_GROUPS

if TYPE_CHECKING:
    from shardproof.comparison import Comparison
    from shardproof.proving.findings import Finding, Proof

_OUTCOMES = {"exact": Tone.GOOD, "approximate": Tone.GOOD, "diverged": Tone.BAD, "nothing": Tone.OPEN}


def render_proof_fragment(proof: Proof) -> str:
    """The answer, its numbers, and the first causes."""
    page = describe_proof(proof)
    more = max(0, len(list_first_causes(proof)) - MOST_GROUPS)
    return render_fragment("proof_fragment.html", page=page, causes=page.causes[:MOST_GROUPS], more=more)


def render_finding_fragment(finding: Finding) -> str:
    """The tensor, its verdict and cause, and what is known of it."""
    return render_fragment(
        "finding_fragment.html",
        title=str(finding.key),
        word=str(finding.verdict),
        tone=tone_of(finding),
        said=tell_cause(finding, {}),
        facts=list_facts(finding),
    )


def render_comparison_fragment(comparison: Comparison) -> str:
    """The outcome, and the parts of its line."""
    line = comparison.describe(0)
    facts = [part.strip().partition(": ") for part in line.split(" | ")[1:]]
    return render_fragment(
        "finding_fragment.html",
        title=comparison.name or "comparison",
        word=comparison.outcome,
        tone=_OUTCOMES[comparison.outcome],
        said="",
        facts=[(name, value) if value else ("", name) for name, _, value in facts],
    )
