"""Partial activations: values that sum up to what they should be, and are used before anyone has summed them up.

A partial activation is right if an all-reduce follows, and is then no finding. If what is computed from it is wrong, it
is the first cause: the first of those in a row, where the all-reduce is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.judging.causes import mend_of_sum
from shardproof.proving.records import ACTIVATIONS, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A finding; of an activation that is right, also the axes over which it is so as a sum only."""

    finding: Finding
    partial_over: tuple[str, ...] = ()


def keep_findings(judged: Iterable[Judged], *, approximate: bool = False) -> list[Finding]:
    """The findings without activations that are right, and with the partial ones that something wrong follows from.

    Args:
        judged: in execution order.
        approximate: what is right is so within rounding noise.
    """
    findings: list[Finding] = []
    run = _PartialRun(approximate=approximate)
    for one in judged:
        finding = one.finding
        run.see(finding.key)
        if finding.verdict is Verdict.WRONG:
            unreduced = run.take_cause_of(finding.key)
            findings += [] if unreduced is None else [unreduced]
        elif finding.verdict.ok and finding.key.phase in ACTIVATIONS | {Phase.LOSS}:
            run.add_right(one)
        if finding.key.phase not in ACTIVATIONS or not finding.verdict.ok:
            findings.append(finding)
    return findings


@dataclass(slots=True, kw_only=True)
class _PartialRun:
    """The partial activations in a row that nothing is known to have reduced yet, of one step.

    Attributes:
        approximate: their sums are right within rounding noise.
        keys: of them, in execution order.
        first: the first of them, as the finding that it is if something wrong is computed from it.
        wrong_before: an activation or loss was wrong: all that comes after it follows from that.
        modules: step and name of those whose outputs' gradients are recorded.
    """

    approximate: bool
    keys: list[Key] = field(default_factory=list)
    first: Finding | None = None
    wrong_before: bool = False
    modules: set[tuple[int, str]] = field(default_factory=set)

    def see(self, key: Key) -> None:
        """Take note of a tensor, right or wrong. A step before it has ended, and its runs with it."""
        if self.keys and self.keys[-1].step != key.step:
            self._end()
        if key.phase is Phase.OUTPUT_GRADIENT:
            self.modules.add((key.step, _module(key)))

    def add_right(self, judged: Judged) -> None:
        """Take in a right activation or loss; one that is no part of a sum ends the run."""
        key = judged.finding.key
        if not judged.partial_over:
            self._end()
            return
        if self.first is None:
            cause = Cause(
                kind=CauseKind.UNREDUCED,
                approximate=self.approximate,
                axes=judged.partial_over,
                mend=mend_of_sum(key.phase),
            )
            elements, numbers = judged.finding.elements, judged.finding.numbers
            self.first = Finding(key=key, verdict=Verdict.WRONG, cause=cause, elements=elements, numbers=numbers)
        self.keys.append(key)

    def take_cause_of(self, key: Key) -> Finding | None:
        """The partial activation that something wrong follows from, if it follows from one that is not told yet.

        A wrong activation or loss follows from the run before it; a parameter's wrong gradient if the gradient of its
        module's output is part of the run (of the innermost module of which one is recorded). Otherwise the gradient
        went wrong by itself.
        """
        activation = key.phase in ACTIVATIONS | {Phase.LOSS}
        if not activation and not (key.phase is Phase.GRADIENT and self._leads_to(key)):
            return None
        cause = None if self.wrong_before else self.first
        self.wrong_before = True  # this one, or the partial activation that it follows from
        return cause

    def _leads_to(self, gradient: Key) -> bool:
        module = gradient.name.rpartition(".")[0]
        while module and (gradient.step, module) not in self.modules:
            module = module.rpartition(".")[0]
        module = module or "model"
        return any(key.phase is Phase.OUTPUT_GRADIENT and _module(key) == module for key in self.keys)

    def _end(self) -> None:
        self.first = None
        self.keys.clear()


def _module(key: Key) -> str:
    return key.name.partition("[")[0]  # one of several outputs
