"""A proof as JSON: a certificate, if it says of what it is one."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import shardproof
from shardproof.report.numbers import json_number, native_fields, number_fields

if TYPE_CHECKING:
    from shardproof.frameworks.specification import Specification
    from shardproof.proving.findings import Finding, Proof

SCHEMA_VERSION = 3


def render_json(proof: Proof, specification: Specification | None = None) -> str:
    """Fields are those of `Proof`, `Finding` and `Specification`; without the last, nobody can replay it.

    Raises:
        CannotRunError: a file of the specification cannot be read.
    """
    return json.dumps(
        {
            "schema_version": SCHEMA_VERSION,
            "versions": installed_versions(),
            "specification": None if specification is None else asdict(specification),
            "files": {} if specification is None else specification.digests(),
            "ok": proof.ok,
            "count": asdict(proof.count),
            "allow": proof.allow,
            "mesh": dict(proof.mesh),
            "data_axes": proof.data_axes,
            "trials": proof.trials,
            "probes": proof.probes,
            "primes": proof.primes,
            "seeds": proof.seeds,
            "native": native_fields(proof),
            "findings": [_finding(finding) for finding in proof.findings],
        },
        indent=2,
    )


def installed_versions() -> dict[str, str | None]:
    """Of what a proof depends on; None of what is not installed."""
    found: dict[str, str | None] = {"shardproof": shardproof.__version__, "python": platform.python_version()}
    for name in ("torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _finding(finding: Finding) -> dict[str, object]:
    return {
        "step": finding.key.step + 1,
        "phase": finding.key.phase,
        "name": finding.key.name,
        "call": finding.key.call + 1,
        "verdict": finding.verdict,
        "root": finding.root,
        "cause": finding.cause,
        "allowed": finding.allowed,
        "place": finding.place,
        "ranks": finding.ranks,
        "differing": finding.differing,
        "elements": finding.elements,
        "probed": finding.probed,
        "false_accept": finding.false_accept,
        "float64_maxdiff": None if finding.rounding is None else json_number(finding.rounding.maxdiff),
        "float64_noise": None if finding.rounding is None else json_number(finding.rounding.noise),
        "numbers": number_fields(finding),
    }
