"""What a report says of the runs in the user's own dtypes: in a line or two of text, and as fields of the JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from shardproof.proving.judging.noise import ALLOWED, FAR
from shardproof.proving.records import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardproof.proving.findings import Finding, Proof


def head_of(proof: Proof) -> str:
    """The answer in capitals; numbers alone prove nothing, and are never called a proof."""
    if proof.trials:
        return "PROVED" if proof.ok else "NOT PROVED"
    return "WITHIN ROUNDING, NOT PROVED" if proof.ok else "NOT WITHIN ROUNDING"


def number_lines(proof: Proof) -> Iterator[str]:
    """How many tensors are equal, how many as near as rounding lets them be, and what is farthest."""
    native = proof.native
    if native is None:
        return
    if native.failed:
        told = native.failed.splitlines()[0] if native.failed else ""
        yield f"In {native.dtype} nothing was compared: the step does not run in it on one device: {told}"
        return
    found = [(finding, finding.numbers) for finding in proof.findings if finding.numbers is not None]
    if found:
        near = [numbers for _, numbers in found if numbers.within and not numbers.exact]
        between = [numbers for _, numbers in found if not numbers.within and not numbers.far]
        far = [numbers for _, numbers in found if numbers.far]
        parts = [f"{sum(numbers.exact for _, numbers in found)} tensors exact"]
        parts.append(f"{len(near)} within {ALLOWED:g} times the rounding noise")
        parts += [f"{len(between)} more than that"] if between else []
        parts += [f"{len(far)} more than {FAR:g} times"] if far else []
        worst, numbers = max(found, key=lambda one: one[1].ratio)
        at = "" if not numbers.ratio else f" (largest ratio {numbers.ratio:.2g} at {worst.key})"
        yield f"In {native.dtype}: {', '.join(parts)}{at}."
    if proof.trials and all(finding.key.phase is not Phase.COLLECTIVES for finding in proof.findings):
        told = f"{native.collectives} collectives a rank, the same, in one order"
        yield f"In {native.dtype} as in exact arithmetic: {told}."


def native_fields(proof: Proof) -> dict[str, object] | None:
    """Of the whole proof, for JSON."""
    native = proof.native
    if native is None:
        return None
    return {
        "dtype": native.dtype,
        "failed": native.failed,
        "collectives": native.collectives,
        "allowed_ratio": ALLOWED,
        "far_ratio": FAR,
    }


def number_fields(finding: Finding) -> dict[str, object] | None:
    """Of one finding, for JSON; what is not finite as text."""
    numbers = finding.numbers
    if numbers is None:
        return None
    return {
        "exact": numbers.exact,
        "approximate": numbers.approximate,
        "maxdiff": json_number(numbers.maxdiff),
        "error": json_number(numbers.error),
        "noise": json_number(numbers.noise),
        "ratio": json_number(numbers.ratio),
    }


def json_number(value: float) -> float | str:
    """A number, or as text one that JSON has not: NaN and the infinities."""
    return value if math.isfinite(value) else str(value)
