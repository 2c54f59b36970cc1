"""Findings that say the same of many tensors, shown as one: 'model.layers.*.q_norm.weight (24 tensors)'."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.proving.cause import CauseKind
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardproof.proving.findings import Finding


_MOST_PATTERNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Findings of one step, verdict, phase and cause.

    Attributes:
        pattern: of their names, with `*` for numbers that differ.
        findings: in execution order.
        patterns: how many patterns `pattern` names or counts.
    """

    pattern: str
    findings: tuple[Finding, ...]
    patterns: int = 1

    @property
    def first(self) -> Finding:
        """The one that was computed first."""
        return self.findings[0]

    @property
    def title(self) -> str:
        """Step, phase and names in one line, for a terminal: 'step 1, gradient: layers.*.w (3 tensors)'."""
        many = f" ({len(self.findings)} tensors)" if len(self.findings) > 1 else ""
        return f"step {self.first.key.step + 1}, {self.first.key.phase}: {printable(self.pattern)}{many}"


def group_findings(findings: Iterable[Finding]) -> list[Group]:
    """Those of one name but for numbers, in the order of each group's first finding."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        blank = re.sub(r"\d+", "*", finding.key.name)
        groups.setdefault((blank, *_said(finding)), []).append(finding)
    return [
        Group(pattern=_pattern([one.key.name for one in group]), findings=tuple(group)) for group in groups.values()
    ]


def merge_groups(groups: Iterable[Group]) -> list[Group]:
    """Groups that say the same of tensors of any names as one, in the order of the first of each."""
    merged: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        merged.setdefault(_said(group.first), []).append(group)
    return [_merged(several) if len(several) > 1 else several[0] for several in merged.values()]


def _merged(groups: list[Group]) -> Group:
    named = ", ".join(group.pattern for group in groups[:_MOST_PATTERNS])
    more = len(groups) - _MOST_PATTERNS
    return Group(
        pattern=f"{named} and {more} more" if more > 0 else named,
        findings=tuple(finding for group in groups for finding in group.findings),
        patterns=len(groups),
    )


def _said(finding: Finding) -> tuple[object, ...]:
    """What is said of a tensor; where no relation explains it, not where it differs."""
    explained = finding.cause is None or finding.cause.kind is not CauseKind.UNEXPLAINED
    cause = finding.cause if explained else CauseKind.UNEXPLAINED
    return finding.key.phase, finding.verdict, cause, finding.key.step


def _pattern(names: list[str]) -> str:
    parts = [re.split(r"(\d+)", name) for name in names]
    return "".join(column[0] if len(set(column)) == 1 else "*" for column in zip(*parts, strict=True))
