"""A proof as JSON: a certificate, if it says how its step can be made again."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from shardproof.proving.findings import FAR_RATIO, ROUNDING_RATIO
from shardproof.report.cause_json import cause_fields
from shardproof.report.json_number import json_number
from shardproof.report.reduction import reduction_fields
from shardproof.report.words import describe_unbounded
from shardproof.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardproof.frameworks.specification import Specification
    from shardproof.frameworks.transformers import Suggestion
    from shardproof.proving.findings import Finding, Proof

SCHEMA_VERSION = 7


def render_json(proof: Proof, specification: Specification | None = None, suggestion: Suggestion | None = None) -> str:
    """The fields of `Proof`, `Finding` and `Specification`; without a specification the proof cannot be replayed.

    A suggestion has the certificate of the proof that passes with its entries.

    Raises:
        CannotRunError: a file of the specification cannot be read.
    """
    fields = _proof_fields(proof, specification)
    fields["suggestion"] = None if suggestion is None else _suggestion_fields(suggestion, specification)
    return json.dumps(fields, indent=2, allow_nan=False)


def _suggestion_fields(suggestion: Suggestion, specification: Specification | None) -> dict[str, object]:
    """What was tried, and the certificate of the mended proof."""
    entries, mended = dict(suggestion.entries), None
    if suggestion.proof is not None:
        changed = specification and specification.with_entries(entries)
        mended = _proof_fields(suggestion.proof, changed) | {"suggestion": None}
    return {"entries": entries, "tried": suggestion.tried, "certificate": mended}


def _proof_fields(proof: Proof, specification: Specification | None) -> dict[str, object]:
    return {
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
        "sharding": None if proof.sharding is None else asdict(proof.sharding) | {"ranks": proof.devices},
        "loaded": proof.loaded,
        "own_buffers": proof.own_buffers,
        "unwatched_states": proof.unwatched_states,
        "taken_constants": [asdict(one) for one in proof.taken_constants],
        "branches": [asdict(one) for one in proof.branches],
        "primes": proof.primes,
        "seeds": proof.seeds,
        "native": _native_fields(proof),
        "reduction": reduction_fields(proof.reduction),
        "findings": [_finding(finding, proof.mesh) for finding in proof.findings],
    }


def installed_versions() -> dict[str, str | None]:
    """The versions of what a proof depends on; None for what is not installed."""
    found: dict[str, str | None] = {"shardproof": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _finding(finding: Finding, mesh: Mapping[str, int]) -> dict[str, object]:
    return {
        "step": finding.key.step + 1,
        "phase": finding.key.phase,
        "name": finding.key.name,
        "call": finding.key.call + 1,
        "verdict": finding.verdict,
        "root": finding.root,
        "cause": cause_fields(finding.cause, mesh),
        "allowed": finding.allowed,
        "source_line": finding.source_line,
        "ranks": finding.ranks,
        "differing": finding.differing,
        "elements": finding.elements,
        "probed": finding.probed,
        "uncompared": finding.uncompared,
        "false_accept": finding.false_accept,
        "unbounded": _unbounded_fields(finding),
        "float64_maxdiff": None if finding.rounding is None else json_number(finding.rounding.maxdiff),
        "float64_noise": None if finding.rounding is None else json_number(finding.rounding.noise),
        "numbers": _number_fields(finding),
    }


def _unbounded_fields(finding: Finding) -> dict[str, object] | None:
    """Why a tensor that agrees has no derived bound."""
    unbounded = finding.unbounded
    if unbounded is None:
        return None
    at = unbounded.at
    place = {"step": at.step + 1, "phase": at.phase, "name": at.name, "call": at.call + 1}
    return {"reason": unbounded.reason, "at": place, "text": describe_unbounded(unbounded)}


def _native_fields(proof: Proof) -> dict[str, object] | None:
    """What was run in the user's own dtypes."""
    native = proof.native
    if native is None:
        return None
    return {
        "dtype": native.dtype,
        "failed": native.failed,
        "collectives": native.collectives,
        "allowed_ratio": ROUNDING_RATIO,
        "far_ratio": FAR_RATIO,
    }


def _number_fields(finding: Finding) -> dict[str, object] | None:
    """The numbers of one finding."""
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
