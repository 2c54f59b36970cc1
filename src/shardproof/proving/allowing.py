"""Allowing: findings that the user knows of and lets be, by pattern; they are counted, and never hidden."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.proving.findings import Finding


def allow_findings(findings: Sequence[Finding], patterns: Sequence[str]) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """The findings, marked where a pattern allows one that is not ok; and the patterns that none of them needed.

    Args:
        findings: of a proof.
        patterns: with wildcards, for '<verdict> <phase> <name>': 'VACUOUS gradient *.bias'.
    """
    marked = []
    unused = dict.fromkeys(patterns)
    for finding in findings:
        said = f"{finding.verdict} {finding.key.phase} {finding.key.name}"
        matched = [] if finding.verdict.ok else [one for one in patterns if fnmatchcase(said, one)]
        for one in matched:
            unused.pop(one, None)
        marked.append(replace(finding, allowed=matched[0]) if matched else finding)
    return tuple(marked), tuple(unused)
