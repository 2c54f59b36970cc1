"""A proof as SARIF 2.1.0, which code scanning reads: a result for each first cause, at a line of the repository.

The format: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html. A finding that the user allows is a result
that is suppressed.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from shardproof.report.code_lines import find_code_line
from shardproof.report.first_causes import tell_cause
from shardproof.report.summary import summarize
from shardproof.tensorfiles import printable
from shardproof.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shardproof.frameworks.plan_source import PlanSource
    from shardproof.proving.findings import Finding, Proof
    from shardproof.report.summary import Summary

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_NOTHING_PROVED = "nothing-proved"


def render_sarif(proof: Proof, *, source: PlanSource | None, root: Path, subject: str = "") -> str:
    """The first causes that are not allowed, and all findings that are, as one run of one tool.

    Args:
        proof: what is reported.
        source: of the sharding, for the lines of the results.
        root: the folder of the repository, which paths are relative to.
        subject: what was proved, as the user named it: runs of the same subject follow one another.
    """
    summary = summarize(proof)
    results = [*_results(summary, source, root), *_suppressed(proof, summary, source, root)]
    rules = dict.fromkeys(str(result["ruleId"]) for result in results)
    run = {
        "tool": {
            "driver": {
                "name": "shardproof",
                "semanticVersion": __version__,
                "rules": [{"id": rule, "shortDescription": {"text": rule.replace("-", " ")}} for rule in rules],
            }
        },
        "automationDetails": {"id": f"shardproof/{printable(subject) or 'step'}/"},
        "invocations": [{"executionSuccessful": True}],
        "results": results,
    }
    content = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(content, indent=2, allow_nan=False)


def escape_message(text: str) -> str:
    """Text as a message without placeholders, which braces would be, and without links (SARIF 3.11.5 and 3.11.6)."""
    return text.replace("{", "{{").replace("}", "}}").replace("](", "\\](")


def _results(summary: Summary, source: PlanSource | None, root: Path) -> Iterator[dict[str, Any]]:
    for cause in summary.causes:
        first = cause.group.first
        text = " ".join([f"{cause.group.title}: {first.verdict}.", *cause.sentences])
        yield _result(first, text, source, root)
    if not summary.ok and not summary.causes:
        yield {"ruleId": _NOTHING_PROVED, "level": "error", "message": {"text": escape_message(summary.headline)}}


def _suppressed(proof: Proof, summary: Summary, source: PlanSource | None, root: Path) -> Iterator[dict[str, Any]]:
    for allowed in summary.allowed:
        for group in allowed.groups:
            cause = tell_cause(group.first, proof.mesh)
            text = f"{group.title}: {group.first.verdict}{f' - {cause}' if cause else ''}."
            suppression = {"kind": "external", "justification": f"allowed by {allowed.pattern!r}"}
            yield {**_result(group.first, text, source, root), "suppressions": [suppression]}


def _result(finding: Finding, text: str, source: PlanSource | None, root: Path) -> dict[str, Any]:
    rule = str(finding.verdict if finding.cause is None else finding.cause.kind).lower().replace(" ", "-")
    named = hashlib.sha256(printable(f"{finding.key} {rule}").encode()).hexdigest()
    return {
        "ruleId": rule,
        "level": "error",
        "message": {"text": escape_message(text)},
        "locations": [_location(finding, source, root)],
        "partialFingerprints": {"tensorAndCause/v1": named},
    }


def _location(finding: Finding, source: PlanSource | None, root: Path) -> dict[str, Any]:
    """The tensor by its name, and the line in a file where one is known."""
    location: dict[str, Any] = {
        "logicalLocations": [{"fullyQualifiedName": printable(str(finding.key)), "kind": "member"}]
    }
    line = find_code_line(finding, source, root)
    if line is not None:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": quote(line.path), "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": line.line},
        }
    return location
