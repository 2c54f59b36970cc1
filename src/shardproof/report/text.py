"""A proof as text for a terminal: the answer, first causes, what follows from them, what is drawn, the bound."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from shardproof.proving.findings import Verdict
from shardproof.proving.records import Phase
from shardproof.report.grouping import group_findings
from shardproof.report.numbers import head_of, number_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shardproof.proving.findings import Finding, Proof
    from shardproof.report.grouping import Group

_MENDS = {
    Phase.GRADIENT: "An all-reduce of the gradient over {axes} is missing in the backward.",
    Phase.OUTPUT: "An all-reduce over {axes} is missing in the forward.",
    Phase.OUTPUT_GRADIENT: "An all-reduce over {axes} is missing in the backward.",
}
_SUM_IS_RIGHT = re.compile(r"whose sum(?: over (?P<axes>.+?))? is right")


def render_text(proof: Proof) -> str:
    """The whole report; names are printed with control characters escaped."""
    return "\n".join(_lines(proof))


def _lines(proof: Proof) -> Iterator[str]:
    counts = Counter(finding.verdict for finding in proof.findings)
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    yield f"{head_of(proof)}: {len(proof.findings)} tensors: {told}"
    primes = f"{proof.trials} trial{'s' * (proof.trials != 1)}, primes {', '.join(map(str, proof.primes))}"
    yield f"{_said_ranks(proof)}, {primes if proof.trials else 'numbers only, no exact arithmetic'}"
    if proof.trials:
        yield f"Probed with: {proof.probes}."
    roots = [finding for finding in proof.roots if finding.failed]
    if roots:
        yield ""
        yield "First causes:"
        for group in group_findings(roots):
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
            yield f"  {_title(group)}: {group.first.cause}."
    yield ""
    yield from _bound_lines(proof)
    for line in number_lines(proof):
        yield _escaped(line)


def _said_ranks(proof: Proof) -> str:
    axes = " x ".join(f"{name} {size}" for name, size in proof.mesh.items())
    return f"{proof.devices} ranks ({axes})" if len(proof.mesh) > 1 else f"{proof.devices} ranks"


def _root_lines(group: Group, mesh: Mapping[str, int]) -> Iterator[str]:
    first = group.first
    yield f"  {_title(group)}: {first.verdict}"
    if first.cause:
        yield f"    {first.cause}."
        partial = _SUM_IS_RIGHT.search(first.cause)
        if partial and first.key.phase in _MENDS:
            axes = partial["axes"] or next(name for name, size in mesh.items() if size > 1)
            yield f"    {_MENDS[first.key.phase].format(axes=axes)}"
    if first.rounding is not None:
        ratio = first.rounding.maxdiff / first.rounding.noise if first.rounding.noise else float("inf")
        yield f"    In float64 the largest difference is {first.rounding.maxdiff:.2g}, {ratio:.2g} times the noise."
    elif first.numbers is not None and not first.numbers.within:
        yield f"    In its own dtype {first.numbers.error:.2g} off, {first.numbers.ratio:.2g} times the rounding noise."
    if first.verdict is Verdict.UNDECIDED and first.rounding is not None:
        yield "    The digits differ, float64 agrees: the same function written otherwise, or a tiny error."
    if first.place:
        yield f"    Its module is called at {_escaped(first.place)}."
    if first.differing:
        yield f"    {first.differing} of {first.elements} elements differ, on rank {', '.join(map(str, first.ranks))}."


def _allowed_lines(proof: Proof) -> Iterator[str]:
    for pattern in dict.fromkeys(finding.allowed for finding in proof.findings if finding.allowed):
        yield ""
        yield f"Allowed by {_escaped(pattern)!r}:"
        for group in group_findings([finding for finding in proof.findings if finding.allowed == pattern]):
            yield f"  {_title(group)}: {group.first.verdict}"
    for pattern in proof.unused:
        yield f"Nothing needs {_escaped(pattern)!r} any more: take it out of what is allowed."


def _follow_lines(follows: Sequence[Finding]) -> Iterator[str]:
    """One line a step and phase: what follows is of interest by its extent only."""
    counts = Counter((finding.key.step, finding.key.phase, finding.verdict) for finding in follows)
    for (step, phase, verdict), count in counts.items():
        yield f"  step {step + 1}, {phase}: {count} {verdict}"


def _title(group: Group) -> str:
    many = f" ({len(group.findings)} tensors)" if len(group.findings) > 1 else ""
    return f"step {group.first.key.step + 1}, {group.first.key.phase}: {_escaped(group.pattern)}{many}"


def _bound_lines(proof: Proof) -> Iterator[str]:
    proved = [finding for finding in proof.findings if finding.verdict is Verdict.PROVED]
    bounds = [finding.false_accept for finding in proved if finding.false_accept is not None]
    if bounds and max(bounds) > 0:
        yield f"{_tensors(len(bounds))} by chance with probability at most {max(bounds):.1g} each."
    if len(proved) > len(bounds):
        rest = [finding for finding in proved if finding.false_accept is None]
        named = ", ".join(sorted({_escaped(finding.key.name) for finding in rest}))
        which = f" ({named})" if len({finding.key.name for finding in rest}) < 4 else ""
        yield f"{_tensors(len(rest))}{which} at {proof.trials} random points, no derived bound."
    in_part = [finding for finding in proved if finding.key.phase is Phase.GRADIENT and finding.probed_in_part]
    for group in group_findings(in_part):
        first = group.first
        yield f"{_title(group)}: {first.probed / first.elements:.0%} of its elements were probed, the rest are zero."


def _tensors(count: int) -> str:
    return f"{count} tensors agree" if count != 1 else "1 tensor agrees"


def _escaped(name: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)
