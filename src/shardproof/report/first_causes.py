"""First causes in words: what is wrong before anything that it could follow from, why, and what would mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.report.grouping import group_findings, merge_groups
from shardproof.report.words import describe_cause, describe_mend
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shardproof.proving.findings import Finding, Proof
    from shardproof.report.grouping import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstCause:
    """Findings that say the same, in sentences.

    Attributes:
        group: the findings.
        cause: what is the matter; empty where no cause is known.
        mend: what would mend it; empty where nothing is known.
        details: how large it is, where it is called, how many elements differ.
    """

    group: Group
    cause: str
    mend: str
    details: tuple[str, ...]

    @property
    def sentences(self) -> Iterator[str]:
        """All of them."""
        yield from (one for one in (self.cause, self.mend) if one)
        yield from self.details


def list_first_causes(proof: Proof) -> list[FirstCause]:
    """The first causes that are not allowed, those that say the same as one."""
    roots = [finding for finding in proof.roots if finding.failed]
    return [_tell(group, proof.mesh) for group in merge_groups(group_findings(roots))]


def tell_cause(finding: Finding, mesh: Mapping[str, int]) -> str:
    """The cause of a finding in one clause, control characters escaped; empty without one."""
    return "" if finding.cause is None else printable(describe_cause(finding.cause, mesh=mesh))


def _tell(group: Group, mesh: Mapping[str, int]) -> FirstCause:
    first = group.first
    vague = group.patterns > 1 and _is_unexplained(first)
    cause = "" if first.cause is None else f"{'In the first, ' if vague else ''}{tell_cause(first, mesh)}."
    mend = "" if first.cause is None else printable(describe_mend(first.cause))
    return FirstCause(group=group, cause=cause, mend=mend, details=tuple(_details(group)))


def _details(group: Group) -> Iterator[str]:
    first = group.first
    if first.rounding is not None and (first.rounding.maxdiff or first.verdict is not Verdict.WRONG):
        ratio = first.rounding.maxdiff / first.rounding.noise if first.rounding.noise else float("inf")
        yield f"In float64 the largest difference is {first.rounding.maxdiff:.2g}, {ratio:.2g} times the noise."
    elif first.numbers is not None and not first.numbers.within:
        yield f"In its own dtype {first.numbers.error:.2g} off, {first.numbers.ratio:.2g} times the rounding noise."
    if first.verdict is Verdict.UNDECIDED and first.rounding is not None:
        yield "The digits differ, float64 agrees: the same function written otherwise, or a tiny error."
    if first.source_line:
        which = "The first" if group.patterns > 1 else "Its"
        yield f"{which} module is called at {printable(first.source_line)}."
    if first.differing and not (_is_unexplained(first) and first.differing == first.elements):
        yield f"{first.differing} of {first.elements} elements differ, on rank {', '.join(map(str, first.ranks))}."


def _is_unexplained(finding: Finding) -> bool:
    return finding.cause is not None and finding.cause.kind is CauseKind.UNEXPLAINED
