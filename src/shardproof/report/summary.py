"""The summary of a proof as values: what every renderer of text says, in its order, and in the same words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.proving.findings import Verdict
from shardproof.report.first_causes import list_first_causes, tell_cause
from shardproof.report.grouping import group_findings
from shardproof.report.headline import describe_ranks, name_answer
from shardproof.report.notes import list_notes, list_sharding_notes
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from shardproof.proving.findings import Proof
    from shardproof.proving.records import Phase
    from shardproof.report.first_causes import FirstCause
    from shardproof.report.grouping import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The findings that one pattern of the user's accepts."""

    pattern: str
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Follows:
    """How many findings of one step, phase and verdict follow from the first causes."""

    step: int
    phase: Phase
    verdict: Verdict
    count: int

    @property
    def title(self) -> str:
        """'step 1, updated parameter: 4', without the verdict."""
        return f"step {self.step + 1}, {self.phase}: {self.count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is said of a proof. Every text is printable: its control characters are escaped.

    Attributes:
        ok: every finding is ok or allowed, and at least one is ok.
        answer: in capitals.
        tensors: how many there are.
        counts: of them by verdict.
        circumstances: ranks, trials and probes, a sentence each.
        sharding: what of the plan and of the mesh does nothing.
        causes: the first causes that are not allowed.
        allowed: what the user accepts, by pattern.
        unused: patterns that accept nothing, a sentence each.
        follows: what follows from the first causes.
        drawn: what ranks draw for themselves, a sentence each.
        notes: how likely agreement by chance is, numbers, and what else is to be known.
    """

    ok: bool
    answer: str
    tensors: int
    counts: tuple[tuple[Verdict, int], ...]
    circumstances: tuple[str, ...]
    sharding: tuple[str, ...]
    causes: tuple[FirstCause, ...]
    allowed: tuple[Allowed, ...]
    unused: tuple[str, ...]
    follows: tuple[Follows, ...]
    drawn: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def headline(self) -> str:
        """'NOT PROVED: 13 tensors: 8 PROVED, 5 WRONG'."""
        told = ", ".join(f"{count} {verdict}" for verdict, count in self.counts)
        return f"{self.answer}: {self.tensors} tensors: {told}"


def summarize(proof: Proof) -> Summary:
    """Say what a proof says, as values."""
    drawn = group_findings(finding for finding in proof.findings if finding.verdict is Verdict.DRAWN)
    return Summary(
        ok=proof.ok,
        answer=name_answer(proof),
        tensors=len(proof.findings),
        counts=tuple(sorted(Counter(finding.verdict for finding in proof.findings).items())),
        circumstances=_tell_circumstances(proof),
        sharding=tuple(list_sharding_notes(proof)),
        causes=tuple(list_first_causes(proof)),
        allowed=_list_allowed(proof),
        unused=tuple(
            f"Nothing needs {printable(pattern)!r} any more: take it out of what is allowed."
            for pattern in proof.unused
        ),
        follows=_count_follows(proof),
        drawn=tuple(f"{group.title}: {tell_cause(group.first, proof.mesh)}." for group in drawn),
        notes=tuple(list_notes(proof)),
    )


def _tell_circumstances(proof: Proof) -> tuple[str, ...]:
    primes = f"{proof.trials} trial{'s' * (proof.trials != 1)}, primes {', '.join(map(str, proof.primes))}"
    kind = primes if proof.trials else "numbers only, no exact arithmetic"
    sharding = proof.sharding
    split = "" if sharding is None else f"{sharding.split} of {sharding.parameters} parameters split, "
    ranks = f"{split}{describe_ranks(proof)}, {kind}"
    return (ranks, f"Probed with: {proof.probes}.") if proof.trials else (ranks,)


def _list_allowed(proof: Proof) -> tuple[Allowed, ...]:
    patterns = dict.fromkeys(finding.allowed for finding in proof.findings if finding.allowed)
    return tuple(
        Allowed(
            pattern=printable(pattern),
            groups=tuple(group_findings(one for one in proof.findings if one.allowed == pattern)),
        )
        for pattern in patterns
    )


def _count_follows(proof: Proof) -> tuple[Follows, ...]:
    """Of what follows, only how much there is matters."""
    counts = Counter(
        (one.key.step, one.key.phase, one.verdict) for one in proof.findings if one.failed and not one.root
    )
    return tuple(
        Follows(step=step, phase=phase, verdict=verdict, count=count)
        for (step, phase, verdict), count in counts.items()
    )
