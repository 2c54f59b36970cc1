"""Marks on findings: which are first causes, which the user allows, and which line of the user's code they are at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.records import ACTIVATIONS, OF_PARAMETERS, Phase

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from shardproof.proving.findings import Finding
    from shardproof.proving.records import Key


def mark_roots(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Mark the first causes: findings that are not ok although nothing before them that they depend on was wrong.

    All that comes after a wrong activation or loss depends on it. Of a wrong gradient, only its own parameter's state
    and update, the norm, and all following steps do; other gradients do not. What is WRONG follows from what is WRONG
    alone: nothing that is undecided, vacuous or unsupported hides it.
    """
    marked = []
    doubtful, wrong = Followed(), Followed()  # of whatever is not ok, and of what is WRONG alone
    for finding in findings:
        if finding.verdict.ok:
            marked.append(finding)
            continue
        is_wrong = finding.verdict is Verdict.WRONG
        marked.append(replace(finding, root=not (wrong if is_wrong else doubtful).leads_to(finding.key)))
        doubtful.add(finding.key)
        if is_wrong:
            wrong.add(finding.key)
    return tuple(marked)


@dataclass(slots=True)
class Followed:
    """Wrong tensors, and what follows from them.

    Attributes:
        polluted_from: the step from which all follows, and the activation or loss in it, if it was one.
        tensors: steps and parameters whose gradient, clipped gradient, state or update is a finding.
    """

    polluted_from: tuple[int, Phase | None] | None = None
    tensors: set[tuple[int, str]] = field(default_factory=set)

    def add(self, key: Key) -> None:
        if key.phase in (Phase.GRADIENT, Phase.NORM, Phase.CLIPPED, Phase.STATE, Phase.UPDATE):
            self.tensors.add((key.step, key.name.partition("/")[0]))
        forward = key.phase if key.phase in ACTIVATIONS | {Phase.LOSS} else None
        if self.polluted_from is None or (self.polluted_from[1] is None and forward is not None):
            self.polluted_from = (key.step, forward)

    def leads_to(self, key: Key) -> bool:
        polluted = self.polluted_from
        if polluted is not None and (polluted[1] is not None or key.step > polluted[0]):
            return True
        if key.phase not in (Phase.NORM, Phase.CLIPPED, Phase.STATE, Phase.UPDATE):
            return False
        same_step = {name for step, name in self.tensors if step == key.step}
        return (
            key.name.partition("/")[0] in same_step
            or (key.phase is Phase.NORM and bool(same_step))
            or "gradient norm" in same_step
        )


def unmark_consequences(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings of a whole proof: what follows from parameters that the ranks hold wrongly is no first cause.

    So do the gradient, state and update of such a parameter, the loss, and the activations of the modules it is in.
    """
    wrong = {one.key.name for one in findings if _is_held_wrongly(one)}
    return tuple(replace(one, root=one.root and not _is_computed_from(one.key, wrong)) for one in findings)


def _is_held_wrongly(finding: Finding) -> bool:
    kinds = (
        *(CauseKind.LOST, CauseKind.SAME_SHARD, CauseKind.SHARD_OFFSETS),
        *(CauseKind.ZEROED, CauseKind.HELD_TWICE, CauseKind.OUT_OF_PLACE),
    )
    return finding.key.phase is Phase.INITIAL and finding.cause is not None and finding.cause.kind in kinds


def _is_computed_from(key: Key, parameters: Collection[str]) -> bool:
    if key.phase in OF_PARAMETERS:
        return key.name.partition("/")[0] in parameters
    if key.phase in ACTIVATIONS:
        module = _module(key)
        return any(module == "model" or name.startswith(f"{module}.") for name in parameters)
    return key.phase is Phase.LOSS and bool(parameters)


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
    return tuple(
        replace(one, source_line=lines.get(_module(one.key), one.source_line)) if one.root else one for one in findings
    )


def _module(key: Key) -> str:
    """The name of the module that a tensor belongs to; empty if it belongs to none."""
    if key.phase in ACTIVATIONS:
        return key.name.partition("/")[0].partition("[")[0]
    if key.phase in OF_PARAMETERS or key.phase in (Phase.INITIAL, Phase.BUFFER):
        return key.name.partition("/")[0].rpartition(".")[0]
    return ""
