"""A proof as JSON."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardproof.prove.findings import Finding, Proof

SCHEMA_VERSION = 1


def render_json(proof: Proof) -> str:
    """Fields are those of `Proof` and `Finding`."""
    return json.dumps(
        {
            "schema_version": SCHEMA_VERSION,
            "ok": proof.ok,
            "devices": proof.devices,
            "trials": proof.trials,
            "primes": proof.primes,
            "seeds": proof.seeds,
            "findings": [_finding(finding) for finding in proof.findings],
        },
        indent=2,
    )


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "step": finding.key.step + 1,
        "phase": finding.key.phase,
        "name": finding.key.name,
        "call": finding.key.call + 1,
        "verdict": finding.verdict,
        "root": finding.root,
        "cause": finding.cause,
        "ranks": finding.ranks,
        "differing": finding.differing,
        "elements": finding.elements,
        "false_accept": finding.false_accept,
        "float64_maxdiff": None if finding.rounding is None else _number(finding.rounding.maxdiff),
        "float64_noise": None if finding.rounding is None else _number(finding.rounding.noise),
    }
