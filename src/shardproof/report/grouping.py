"""Findings that say the same of many tensors, shown as one: 'model.layers.*.q_norm.weight (24 tensors)'."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardproof.proving.findings import Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Findings of one step, verdict, phase and cause, and of one name but for numbers; `pattern` has `*` for these."""

    pattern: str
    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """The one that was computed first."""
        return self.findings[0]


def group_findings(findings: Iterable[Finding]) -> list[Group]:
    """In the order of each group's first finding."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        blank = re.sub(r"\d+", "*", finding.key.name)
        explained = finding.cause is None or finding.cause.kind is not CauseKind.UNEXPLAINED
        cause = finding.cause if explained else CauseKind.UNEXPLAINED  # not where each of them differs
        same = (blank, finding.key.phase, finding.verdict, cause, finding.key.step)
        groups.setdefault(same, []).append(finding)
    return [
        Group(pattern=_pattern([one.key.name for one in group]), findings=tuple(group)) for group in groups.values()
    ]


def _pattern(names: list[str]) -> str:
    parts = [re.split(r"(\d+)", name) for name in names]
    return "".join(column[0] if len(set(column)) == 1 else "*" for column in zip(*parts, strict=True))
