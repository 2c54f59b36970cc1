"""A proof as text for a terminal: the answer, first causes, what follows from them, what is drawn, bounds, numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import FAR_RATIO, ROUNDING_RATIO, Verdict
from shardproof.proving.records import Phase
from shardproof.report.grouping import group_findings, merge_groups
from shardproof.report.words import describe_cause, describe_mend, describe_unbounded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shardproof.exact import NoBound
    from shardproof.proving.findings import Finding, Proof
    from shardproof.report.grouping import Group


_MOST_NAMES = 6
_MOST_CONSTANTS = 4


def render_text(proof: Proof) -> str:
    """The whole report; names are printed with control characters escaped."""
    return "\n".join(_lines(proof))


def _lines(proof: Proof) -> Iterator[str]:
    counts = Counter(finding.verdict for finding in proof.findings)
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    yield f"{_head_of(proof)}: {len(proof.findings)} tensors: {told}"
    primes = f"{proof.trials} trial{'s' * (proof.trials != 1)}, primes {', '.join(map(str, proof.primes))}"
    yield f"{_said_split(proof)}{_said_ranks(proof)}, {primes if proof.trials else 'numbers only, no exact arithmetic'}"
    if proof.trials:
        yield f"Probed with: {proof.probes}."
    yield from _sharding_lines(proof)
    roots = [finding for finding in proof.roots if finding.failed]
    if roots:
        yield ""
        yield "First causes:"
        for group in merge_groups(group_findings(roots)):
            yield from _root_lines(group, proof.mesh)
    yield from _allowed_lines(proof)
    follows = [finding for finding in proof.findings if finding.failed and not finding.root]
    if follows:
        yield ""
        yield "What follows from them:"
        yield from _follow_lines(follows)
    drawn = [finding for finding in proof.findings if finding.verdict is Verdict.DRAWN]
    if drawn:
        yield ""
        yield "Drawn by the ranks for themselves, which is not wrong:"
        for group in group_findings(drawn):
            yield f"  {_title(group)}: {_cause(group.first, proof.mesh)}."
    yield ""
    if proof.loaded:
        yield (
            "Parameters that the ranks fill themselves, whatever they are given, into which the prover's values were "
            f"loaded before the first step: {_some_of(proof.loaded)}."
        )
    if proof.own_buffers:
        yield f"Buffers that only the candidate has, compared with nothing: {_some_of(proof.own_buffers)}."
    yield from _constant_lines(proof)
    yield from _branch_lines(proof)
    yield from _bound_lines(proof)
    for line in _number_lines(proof):
        yield _escaped(line)


def _some_of(names: Sequence[str]) -> str:
    named = ", ".join(map(_escaped, names[:_MOST_NAMES]))
    return f"{named} and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else named


def _cause(finding: Finding, mesh: Mapping[str, int]) -> str:
    return "" if finding.cause is None else _escaped(describe_cause(finding.cause, mesh=mesh))


def _sharding_lines(proof: Proof) -> Iterator[str]:
    """What of the plan and of the mesh does nothing; an axis that is a finding is told of there."""
    if proof.sharding is None:
        return
    if proof.sharding.unmatched:
        yield f"Plan entries that match no module, and do nothing: {_some_of(proof.sharding.unmatched)}."
    told = {finding.key.name for finding in proof.findings if finding.key.phase is Phase.SHARDING}
    for axis in proof.sharding.idle:
        if axis not in told:
            yield f"Along {axis} nothing is split: its ranks hold and compute the same."


def _said_split(proof: Proof) -> str:
    sharding = proof.sharding
    return "" if sharding is None else f"{sharding.split} of {sharding.parameters} parameters split, "


def _said_ranks(proof: Proof) -> str:
    axes = " x ".join(f"{name} {size}" for name, size in proof.mesh.items())
    return f"{proof.devices} ranks ({axes})" if len(proof.mesh) > 1 else f"{proof.devices} ranks"


def _root_lines(group: Group, mesh: Mapping[str, int]) -> Iterator[str]:
    first = group.first
    yield f"  {_title(group)}: {first.verdict}"
    several = group.patterns > 1
    unexplained = first.cause is not None and first.cause.kind is CauseKind.UNEXPLAINED
    if first.cause:
        yield f"    {'In the first, ' if several and unexplained else ''}{_cause(first, mesh)}."
        if first.cause.mend:
            yield f"    {describe_mend(first.cause)}"
    if first.rounding is not None and (first.rounding.maxdiff or first.verdict is not Verdict.WRONG):
        ratio = first.rounding.maxdiff / first.rounding.noise if first.rounding.noise else float("inf")
        yield f"    In float64 the largest difference is {first.rounding.maxdiff:.2g}, {ratio:.2g} times the noise."
    elif first.numbers is not None and not first.numbers.within:
        yield f"    In its own dtype {first.numbers.error:.2g} off, {first.numbers.ratio:.2g} times the rounding noise."
    if first.verdict is Verdict.UNDECIDED and first.rounding is not None:
        yield "    The digits differ, float64 agrees: the same function written otherwise, or a tiny error."
    if first.source_line:
        yield f"    {'The first' if several else 'Its'} module is called at {_escaped(first.source_line)}."
    if first.differing and not (unexplained and first.differing == first.elements):
        yield f"    {first.differing} of {first.elements} elements differ, on rank {', '.join(map(str, first.ranks))}."


def _branch_lines(proof: Proof) -> Iterator[str]:
    """What was decided by numbers that the ranks read: the way that was not taken is not proved."""
    for one in proof.branches:
        where = f" at {_escaped(one.line)}" if one.line else ""
        if one.limited:
            yield (
                f"A comparison of numbers{where} is {str(one.holds).lower()} wherever one device limits the number: "
                "the other way was not run in exact arithmetic."
            )
        else:
            yield f"A comparison of numbers{where} has a drawn answer in each trial."


def _allowed_lines(proof: Proof) -> Iterator[str]:
    for pattern in dict.fromkeys(finding.allowed for finding in proof.findings if finding.allowed):
        yield ""
        yield f"Allowed by {_escaped(pattern)!r}:"
        for group in group_findings([finding for finding in proof.findings if finding.allowed == pattern]):
            yield f"  {_title(group)}: {group.first.verdict}"
    for pattern in proof.unused:
        yield f"Nothing needs {_escaped(pattern)!r} any more: take it out of what is allowed."


def _follow_lines(follows: Sequence[Finding]) -> Iterator[str]:
    """One line for each step and phase: of what follows, only how much there is matters."""
    counts = Counter((finding.key.step, finding.key.phase, finding.verdict) for finding in follows)
    for (step, phase, verdict), count in counts.items():
        yield f"  step {step + 1}, {phase}: {count} {verdict}"


def _constant_lines(proof: Proof) -> Iterator[str]:
    """Constants that differ from one device's in the last place, which is rounding and not wrong."""
    taken = proof.taken_constants
    if taken:
        named = ", ".join(f"{one.given:.17g} for {one.taken:.17g}" for one in taken[:_MOST_CONSTANTS])
        rest = f" and {len(taken) - _MOST_CONSTANTS} more" if len(taken) > _MOST_CONSTANTS else ""
        constants = "1 constant of the ranks is" if len(taken) == 1 else f"{len(taken)} constants of the ranks are"
        yield f"{constants} taken for one device's, from which they differ in the last place: {named}{rest}."


def _title(group: Group) -> str:
    many = f" ({len(group.findings)} tensors)" if len(group.findings) > 1 else ""
    return f"step {group.first.key.step + 1}, {group.first.key.phase}: {_escaped(group.pattern)}{many}"


def _bound_lines(proof: Proof) -> Iterator[str]:
    proved = [finding for finding in proof.findings if finding.verdict is Verdict.PROVED]
    bounds = [finding.false_accept for finding in proved if finding.false_accept is not None]
    if bounds and max(bounds) > 0:
        yield f"{_tensors(len(bounds))} by chance with probability at most {max(bounds):.1g} each."
    yield from _unbounded_lines(proof, [finding for finding in proved if finding.false_accept is None])
    uncompared = [finding for finding in proved if finding.uncompared]
    if uncompared:
        count, tensors = sum(finding.uncompared for finding in uncompared), len(uncompared)
        yield (
            f"{count} element{'s' * (count != 1)} of {tensors} of these tensors divide{'s' * (count == 1)} by zero by "
            f"chance in the only trial, and agree{'s' * (count == 1)} in float64 alone: take more trials."
        )
    in_part = [finding for finding in proved if finding.key.phase is Phase.GRADIENT and finding.probed_in_part]
    for group in group_findings(in_part):
        first = group.first
        yield f"{_title(group)}: {first.probed / first.elements:.0%} of its elements were probed, the rest are zero."


def _unbounded_lines(proof: Proof, rest: Sequence[Finding]) -> Iterator[str]:
    """How many tensors have no derived bound, and why: a line for each reason, with the first tensor that it is of."""
    groups: dict[NoBound | None, list[Finding]] = {}
    for finding in rest:
        reason = None if finding.unbounded is None else finding.unbounded.reason
        groups.setdefault(reason, []).append(finding)
    for group in groups.values():
        names = {_escaped(finding.key.name) for finding in group}
        which = f" ({', '.join(sorted(names))})" if len(names) < 4 else ""
        yield f"{_tensors(len(group))}{which} at {proof.trials} random points, no derived bound."
        first = group[0].unbounded
        if first is not None:
            yield f"  The bound is lost at {_escaped(str(first.at))}: {describe_unbounded(first)}."


def _head_of(proof: Proof) -> str:
    """The answer in capitals. Numbers alone prove nothing and are never called a proof."""
    if proof.trials:
        return "PROVED" if proof.ok else "NOT PROVED"
    return "WITHIN ROUNDING, NOT PROVED" if proof.ok else "NOT WITHIN ROUNDING"


def _number_lines(proof: Proof) -> Iterator[str]:
    """In the user's own dtypes: how many tensors are equal, how many within rounding, and which is farthest."""
    native = proof.native
    if native is None:
        return
    if native.failed:
        told = native.failed.splitlines()[0] if native.failed else ""
        yield f"In {native.dtype} nothing was compared: the step does not run in it on one device: {told}"
        return
    found = [(finding, finding.numbers) for finding in proof.findings if finding.numbers is not None]
    unknown = [numbers for _, numbers in found if numbers.no_reference]
    if unknown:
        yield f"In {native.dtype} one device computes NaN or infinity in {len(unknown)} of {len(found)} tensors."
        found = [(finding, numbers) for finding, numbers in found if not numbers.no_reference]
    if found:
        near = [numbers for _, numbers in found if numbers.within and not numbers.exact]
        between = [numbers for _, numbers in found if not numbers.within and not numbers.far]
        far = [numbers for _, numbers in found if numbers.far]
        parts = [f"{sum(numbers.exact for _, numbers in found)} tensors exact"]
        parts.append(f"{len(near)} within {ROUNDING_RATIO:g} times the rounding noise")
        parts += [f"{len(between)} more than that"] if between else []
        parts += [f"{len(far)} more than {FAR_RATIO:g} times"] if far else []
        worst, numbers = max(found, key=lambda one: one[1].ratio)
        at = "" if not numbers.ratio else f" (largest ratio {numbers.ratio:.2g} at {worst.key})"
        yield f"In {native.dtype}: {', '.join(parts)}{at}."
    if proof.trials and all(finding.key.phase is not Phase.COLLECTIVES for finding in proof.findings):
        told = f"{native.collectives} collectives a rank, the same"
        yield f"In {native.dtype} as in exact arithmetic: {told}."


def _tensors(count: int) -> str:
    return f"{count} tensors agree" if count != 1 else "1 tensor agrees"


def _escaped(name: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)
