"""Notes on a proof: what else a reader should know of it, one line each; in every report, whoever renders it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.proving.findings import FAR_RATIO, ROUNDING_RATIO, Verdict
from shardproof.proving.records import Phase
from shardproof.report.grouping import group_findings
from shardproof.report.reduction import list_reduction
from shardproof.report.words import describe_unbounded
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shardproof.exact import NoBound
    from shardproof.exact.algebra.number_branches import NumberBranch
    from shardproof.proving.findings import Finding, Proof

_MOST_NAMES = 6
_MOST_CONSTANTS = 4


def list_sharding_notes(proof: Proof) -> Iterator[str]:
    """What of the plan and of the mesh does nothing; an axis that is a finding is told of there."""
    if proof.sharding is None:
        return
    if proof.sharding.unmatched:
        yield f"Plan entries that match no module, and do nothing: {_some_of(proof.sharding.unmatched)}."
    told = {finding.key.name for finding in proof.findings if finding.key.phase is Phase.SHARDING}
    for axis in proof.sharding.idle:
        if axis not in told:
            yield f"Along {axis} nothing is split: its ranks hold and compute the same."


def list_notes(proof: Proof) -> Iterator[str]:
    """What was loaded or left out, how numbers branched, how likely agreement by chance is, and the numbers."""
    if proof.loaded:
        yield (
            "Parameters that the ranks fill themselves, whatever they are given, into which the prover's values were "
            f"loaded before the first step: {_some_of(proof.loaded)}."
        )
    if proof.own_buffers:
        yield f"Buffers that only the candidate has, compared with nothing: {_some_of(proof.own_buffers)}."
    if proof.unwatched_states:
        yield (
            "Optimizer state of parameters that are not watched, compared with nothing: "
            f"{_some_of(proof.unwatched_states)}. Watch them too: run.watch."
        )
    yield from _constant_lines(proof)
    yield from _branch_lines(proof)
    yield from _bound_lines(proof)
    yield from map(printable, _number_lines(proof))
    yield from list_reduction(proof.reduction)


def _some_of(names: Sequence[str]) -> str:
    named = ", ".join(map(printable, names[:_MOST_NAMES]))
    return f"{named} and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else named


def _constant_lines(proof: Proof) -> Iterator[str]:
    """Constants that differ from one device's in the last place, which is rounding and not wrong."""
    taken = proof.taken_constants
    if taken:
        named = ", ".join(f"{one.given:.17g} for {one.taken:.17g}" for one in taken[:_MOST_CONSTANTS])
        rest = f" and {len(taken) - _MOST_CONSTANTS} more" if len(taken) > _MOST_CONSTANTS else ""
        constants = "1 constant of the ranks is" if len(taken) == 1 else f"{len(taken)} constants of the ranks are"
        yield f"{constants} taken for one device's, from which they differ in the last place: {named}{rest}."


def _branch_lines(proof: Proof) -> Iterator[str]:
    """What was decided by numbers that the ranks read, a line once: the way that was not taken is not proved."""
    yield from dict.fromkeys(map(_say_branch, proof.branches))


def _say_branch(one: NumberBranch) -> str:
    where = f" at {printable(one.line)}" if one.line else ""
    if one.limited:
        return (
            f"A comparison of numbers{where} is {str(one.holds).lower()} wherever one device limits the number: "
            "the other way was not run in exact arithmetic."
        )
    return f"A comparison of numbers{where} has a drawn answer in each trial."


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
        yield f"{group.title}: {first.probed / first.elements:.0%} of its elements were probed, the rest are zero."


def say_points(trials: int) -> str:
    """So many random points, in words."""
    return f"{trials} random point{'s' * (trials != 1)}"


def _unbounded_lines(proof: Proof, rest: Sequence[Finding]) -> Iterator[str]:
    """How many tensors have no derived bound, and why: a line for each reason, with the first tensor that it is of."""
    groups: dict[NoBound | None, list[Finding]] = {}
    for finding in rest:
        reason = None if finding.unbounded is None else finding.unbounded.reason
        groups.setdefault(reason, []).append(finding)
    for group in groups.values():
        names = {printable(finding.key.name) for finding in group}
        which = f" ({', '.join(sorted(names))})" if len(names) < 4 else ""
        yield f"{_tensors(len(group))}{which} at {say_points(proof.trials)}, no derived bound."
        first = group[0].unbounded
        if first is not None:
            yield f"  The bound is lost at {printable(str(first.at))}: {describe_unbounded(first)}."


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
