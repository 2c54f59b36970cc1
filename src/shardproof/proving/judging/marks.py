"""Marks on findings: which are first causes, which the user allows, and which line of the user's code they are at."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from shardproof.proving.records import ACTIVATIONS, OF_PARAMETERS, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardproof.proving.findings import Finding
    from shardproof.proving.records import Key


def mark_roots(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Mark the first causes: findings that are not ok although nothing before them that they depend on was wrong.

    All that comes after a wrong activation or loss depends on it. Of a wrong gradient, only its own parameter's state
    and update, the norm, and all following steps do; other gradients do not.
    """
    marked = []
    polluted_from: tuple[int, Phase | None] | None = None
    wrong_gradients: set[tuple[int, str]] = set()
    for finding in findings:
        key = finding.key
        if finding.verdict.ok:
            marked.append(finding)
            continue
        parameter = key.name.partition("/")[0]
        follows = polluted_from is not None and (polluted_from[1] is not None or key.step > polluted_from[0])
        if key.phase in (Phase.NORM, Phase.CLIPPED, Phase.STATE, Phase.UPDATE):
            same_step = {name for step, name in wrong_gradients if step == key.step}
            follows = follows or parameter in same_step or (key.phase is Phase.NORM and bool(same_step))
            follows = follows or "gradient norm" in same_step
        marked.append(replace(finding, root=not follows))
        if key.phase in (Phase.GRADIENT, Phase.NORM, Phase.CLIPPED, Phase.STATE, Phase.UPDATE):
            wrong_gradients.add((key.step, parameter))
        if polluted_from is None or (polluted_from[1] is None and key.phase in ACTIVATIONS | {Phase.LOSS}):
            polluted_from = (key.step, key.phase if key.phase in ACTIVATIONS | {Phase.LOSS} else None)
    return tuple(marked)


def mark_allowed(findings: Sequence[Finding], patterns: Sequence[str]) -> tuple[Finding, ...]:
    """The findings, marked where a pattern allows one that is not ok; they stay in the report and are counted.

    Args:
        findings: of a proof.
        patterns: with wildcards, for '<verdict> <phase> <name>': 'VACUOUS gradient *.bias'.
    """
    marked = []
    for finding in findings:
        title = f"{finding.verdict} {finding.key.phase} {finding.key.name}"
        allowing = "" if finding.verdict.ok else next((one for one in patterns if fnmatchcase(title, one)), "")
        marked.append(replace(finding, allowed=allowing))
    return tuple(marked)


def mark_source_lines(findings: Sequence[Finding], lines: Mapping[str, str]) -> tuple[Finding, ...]:
    """First causes with the line of the user's code that called their module.

    Args:
        findings: of a proof.
        lines: by the name under which a module was recorded.
    """
    return tuple(replace(one, source_line=lines.get(_module(one.key), "")) if one.root else one for one in findings)


def _module(key: Key) -> str:
    """The name of the module that a tensor belongs to; empty if it belongs to none."""
    if key.phase in ACTIVATIONS:
        return key.name.partition("/")[0].partition("[")[0]
    if key.phase in OF_PARAMETERS or key.phase in (Phase.INITIAL, Phase.BUFFER):
        return key.name.partition("/")[0].rpartition(".")[0]
    return ""
