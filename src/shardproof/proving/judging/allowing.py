"""Allowing: findings that the user knows of and lets be, by pattern; they are counted, and never hidden."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.proving.findings import Finding


def allow_findings(findings: Sequence[Finding], patterns: Sequence[str]) -> tuple[Finding, ...]:
    """The findings, marked where a pattern allows one that is not ok.

    Args:
        findings: of a proof.
        patterns: with wildcards, for '<verdict> <phase> <name>': 'VACUOUS gradient *.bias'.
    """
    marked = []
    for finding in findings:
        said = f"{finding.verdict} {finding.key.phase} {finding.key.name}"
        allowing = "" if finding.verdict.ok else next((one for one in patterns if fnmatchcase(said, one)), "")
        marked.append(replace(finding, allowed=allowing))
    return tuple(marked)
