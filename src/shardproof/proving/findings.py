"""Findings: what the proof says of one tensor, and of all of them together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod
from typing import TYPE_CHECKING

from shardproof.representation import represent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardproof.exact import NoBound
    from shardproof.exact.algebra.number_branches import NumberBranch
    from shardproof.exact.algebra.reference_constants import TakenConstant
    from shardproof.proving.cause import Cause
    from shardproof.proving.evidence import Evidence
    from shardproof.proving.records import Key
    from shardproof.proving.reduction import Reduction

# In the user's own dtypes: a difference is rounding up to so many times the reference's noise, and cannot be rounding
# beyond so many. docs/proving.md has what right shardings need.
ROUNDING_RATIO = 8.0
FAR_RATIO = 16.0


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
class Rounding:
    """A tensor's difference in float64.

    Attributes:
        maxdiff: the largest between a rank's element and the reference's.
        noise: the reference's own rounding noise in float64, measured in float32 and scaled.
        agrees: `maxdiff` lies within the noise; false where a value is not finite.
    """

    maxdiff: float
    noise: float
    agrees: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """One tensor in the user's own dtypes.

    Attributes:
        exact: candidate and reference are equal, both in these dtypes.
        approximate: they are equal within torch.testing's tolerances.
        maxdiff: the largest difference between them.
        error: the largest between the candidate and the reference in float64.
        noise: the largest between the reference and itself in float64, or its least; NaN where one is not finite.
        scale: the largest magnitude in the reference in float64.
    """

    exact: bool
    approximate: bool
    maxdiff: float
    error: float
    noise: float
    scale: float

    @property
    def ratio(self) -> float:
        """The error in units of the noise; infinite where there is an error and no noise, or an error is not finite."""
        if not math.isfinite(self.error):
            return math.inf
        if not self.noise:
            return math.inf if self.error else 0.0
        return self.error / self.noise

    @property
    def no_reference(self) -> bool:
        """The reference is NaN or infinite, in these dtypes or in float64: nothing can be compared with it."""
        return not (math.isfinite(self.noise) and math.isfinite(self.scale))

    @property
    def within(self) -> bool:
        """The error is rounding: at most `ROUNDING_RATIO` times the noise."""
        return self.ratio <= ROUNDING_RATIO and not self.no_reference

    @property
    def far(self) -> bool:
        """The error cannot be rounding: more than `FAR_RATIO` times a noise that could be measured."""
        return self.ratio > FAR_RATIO and self.noise > 0 and not self.no_reference

    @property
    def verdict(self) -> Verdict:
        """What the numbers alone say."""
        if self.no_reference or (not self.scale and not self.error):
            return Verdict.VACUOUS
        if self.within:
            return Verdict.ROUNDING
        return Verdict.WRONG if self.far else Verdict.UNDECIDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Unbounded:
    """Why a tensor that agrees has no derived bound.

    Attributes:
        reason: how the bound was lost.
        at: the first tensor of which no bound is derived, in the same segment or in one before it.
    """

    reason: NoBound
    at: Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is said of one tensor of one step.

    Attributes:
        key: which tensor.
        verdict: what is said of it.
        cause: why it is not PROVED, or what was drawn, where that is known; else None. `report/words.py` has the words.
        ranks: where it differs.
        differing: how many elements differ, of `elements`.
        false_accept: of PROVED, a bound on the probability of agreeing by chance; None if none is derived.
        unbounded: of PROVED, why none is derived; None where one is.
        rounding: of one that is not ok, the difference of the native float64 runs beside the reference's noise.
        numbers: in the user's own dtypes; None where they cannot be compared, or the step does not run in them.
        root: it is a first cause: nothing earlier was wrong that it could follow from.
        probed: how many of the elements were not zero in some run; the others were compared as zeros.
        uncompared: how many of the elements divide by zero by chance in the only trial: they agree in float64 alone.
        source_line: of a root, the line of the user's code that called the module, as the first rank ran it.
        allowed: the user's pattern that accepts it although it is not ok; empty without one.
    """

    key: Key
    verdict: Verdict
    cause: Cause | None = None
    ranks: tuple[int, ...] = ()
    differing: int = 0
    elements: int = 0
    false_accept: float | None = None
    unbounded: Unbounded | None = None
    rounding: Rounding | None = None
    numbers: Numbers | None = None
    root: bool = False
    probed: int = 0
    uncompared: int = 0
    source_line: str = ""
    allowed: str = ""

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return represent(self, "html")

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
    """How many findings are ok, not ok, and not ok but allowed; each is counted once."""

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
class Sharding:
    """What the candidate splits.

    Attributes:
        parameters: how many the step has on one device.
        split: how many of them are not whole on every rank.
        idle: the axes of the mesh along which the ranks hold, compute and send the same.
        unmatched: entries of the plan that match no module.
    """

    parameters: int
    split: int
    idle: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """All findings, in execution order.

    Attributes:
        findings: one for each tensor.
        mesh: the sizes of the mesh's axes by name, in order.
        data_axes: those along which each rank took rows of the batch of its own.
        trials: how many random points; none where only numbers were compared, and nothing is proved.
        primes: of each trial.
        seeds: of each trial.
        native: what was run beside them.
        probes: what the step was probed with, in words.
        allow: the user's patterns of findings to accept.
        sharding: what is split; None where no layout could be found.
        loaded: the names of parameters that the sharding fills with values of its own, whatever it is given: the
            prover's values were loaded into them after it.
        own_buffers: the names of buffers that only the candidate has, which are compared with nothing.
        unwatched_states: optimizer states of parameters that the candidate does not watch, by name and shape, which are
            compared with nothing: what follows from them is seen in later updates alone.
        taken_constants: real constants of the ranks that were taken for one device's: they differ by rounding.
        branches: how the ranks' comparisons of numbers that they read were decided in the first trial.
        reduction: how the step was made smaller than what it stands for; None where it is what the user gave.
        evidence: what a page shows beside the findings; None where it was not asked for.
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
    sharding: Sharding | None = None
    loaded: tuple[str, ...] = ()
    own_buffers: tuple[str, ...] = ()
    unwatched_states: tuple[str, ...] = ()
    taken_constants: tuple[TakenConstant, ...] = ()
    branches: tuple[NumberBranch, ...] = ()
    reduction: Reduction | None = None
    evidence: Evidence | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        """The report, as `shardproof prove` prints it."""
        return represent(self, "text")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return represent(self, "html")

    @property
    def devices(self) -> int:
        """How many ranks."""
        return prod(self.mesh.values())

    @property
    def ok(self) -> bool:
        """Every finding is ok or allowed, and at least one is ok."""
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
        """First causes: findings that are not ok although nothing before them was wrong."""
        return tuple(finding for finding in self.findings if finding.root)
