"""Findings: what the proof says of one tensor, and of all of them together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardproof.proving.judging.noise import Numbers
    from shardproof.proving.judging.rounding import Rounding
    from shardproof.proving.records import Key


class Verdict(StrEnum):
    """See docs/proving.md; `ok` are PROVED, ROUNDING and DRAWN."""

    PROVED = "PROVED"
    ROUNDING = "ROUNDING"
    DRAWN = "DRAWN"
    WRONG = "WRONG"
    UNDECIDED = "UNDECIDED"
    VACUOUS = "VACUOUS"
    UNSUPPORTED = "UNSUPPORTED"

    @property
    def ok(self) -> bool:
        """Whether a tensor with this verdict needs no one's attention."""
        return self in (Verdict.PROVED, Verdict.ROUNDING, Verdict.DRAWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Of one tensor of one step.

    Attributes:
        key: which.
        verdict: what is said of it.
        cause: in words, where a relation explains the difference exactly, or of DRAWN what was drawn; else empty.
        ranks: where it differs.
        differing: how many elements differ, of `elements`.
        false_accept: of PROVED, a bound on the probability of agreeing by chance; None if none is derived.
        rounding: of one that is not ok, the difference of the native float64 runs beside the reference's noise.
        numbers: in the user's own dtypes; None where they cannot be compared, or the step does not run in them.
        root: nothing earlier was wrong that this one could follow from.
        probed: how many of the elements were not zero in some run; the others were compared as zeros.
        place: of a root, the line of the user's code that called the module, as the first rank ran it.
        allowed: the user's pattern that lets it be although it is not ok; empty without one.
    """

    key: Key
    verdict: Verdict
    cause: str = ""
    ranks: tuple[int, ...] = ()
    differing: int = 0
    elements: int = 0
    false_accept: float | None = None
    rounding: Rounding | None = None
    numbers: Numbers | None = None
    root: bool = False
    probed: int = 0
    place: str = ""
    allowed: str = ""

    @property
    def probed_in_part(self) -> bool:
        """Some elements were zero in every run (rows of a table that no token hits), others not."""
        return 0 < self.probed < self.elements

    @property
    def failed(self) -> bool:
        """It is not ok, and nobody has allowed it."""
        return not self.verdict.ok and not self.allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Of findings; every one is counted once."""

    passed: int
    failed: int
    allowed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Native:
    """The runs in the user's own dtypes.

    Attributes:
        dtype: in words: 'float32', or 'bfloat16 and float32' where they are mixed.
        failed: why the step does not run in them on one device; then nothing is known of its numbers.
        collectives: how many the first rank took part in.
    """

    dtype: str
    failed: str = ""
    collectives: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """All findings, in execution order.

    Attributes:
        findings: one a tensor.
        mesh: the sizes of the mesh's axes by name, in order.
        data_axes: those along which each rank took rows of the batch of its own.
        trials: how many random points; none where only numbers were compared, and nothing is proved.
        primes: of each trial.
        seeds: of each trial.
        native: what was run beside them.
        probes: what the step was probed with, in words.
        allow: the user's patterns of findings to let be.
    """

    findings: tuple[Finding, ...]
    mesh: Mapping[str, int]
    data_axes: tuple[str, ...]
    trials: int
    primes: tuple[int, ...]
    seeds: tuple[int, ...]
    native: Native | None = None
    probes: str = ""
    allow: tuple[str, ...] = ()

    @property
    def devices(self) -> int:
        """How many ranks."""
        return prod(self.mesh.values())

    @property
    def ok(self) -> bool:
        """No tensor is anything but PROVED (or ROUNDING or DRAWN) or allowed, and there is one that is not allowed."""
        return self.count.passed > 0 and not self.count.failed

    @property
    def count(self) -> Count:
        """How many of the findings are what they should be, are not, or are not and allowed."""
        return Count(
            passed=sum(finding.verdict.ok for finding in self.findings),
            failed=sum(finding.failed for finding in self.findings),
            allowed=sum(bool(finding.allowed) for finding in self.findings),
        )

    @property
    def unused(self) -> tuple[str, ...]:
        """The patterns that allow nothing: no finding needs them any more."""
        used = {finding.allowed for finding in self.findings}
        return tuple(pattern for pattern in self.allow if pattern not in used)

    @property
    def roots(self) -> tuple[Finding, ...]:
        """First causes: what is not ok although nothing before it was."""
        return tuple(finding for finding in self.findings if finding.root)
