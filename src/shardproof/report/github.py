"""A proof as GitHub Actions reads it: the report in the log, and annotations on files of the repository.

Workflow commands: https://docs.github.com/actions/reference/workflow-commands-for-github-actions.
A line that begins with `::`, or has `##[` anywhere, is a command to the runner, whoever wrote it. So the report, which
has names that are untrusted, stands between `stop-commands` and a random word; annotations escape what they quote.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from shardproof.report.code_lines import find_code_line
from shardproof.report.summary import summarize
from shardproof.report.text import render_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from shardproof.frameworks.plan_source import PlanSource
    from shardproof.proving.findings import Proof
    from shardproof.report.summary import Summary

_MOST_ANNOTATIONS = 10  # GitHub shows so many errors of a step


def render_github(proof: Proof, *, source: PlanSource | None, root: Path, stop_word: str | None = None) -> str:
    """The report, and below it an annotation for each first cause, or a notice where there is none.

    Args:
        proof: what is reported.
        source: of the sharding, for the lines of the annotations.
        root: the folder of the repository.
        stop_word: ends the part in which the runner looks for no commands; random if not given.
    """
    word = stop_word or secrets.token_hex(16)
    summary = summarize(proof)
    return "\n".join(
        [f"::stop-commands::{word}", render_text(proof), f"::{word}::", *_annotations(summary, source, root)]
    )


def write_command(name: str, message: str, properties: Mapping[str, str | int | None] | None = None) -> str:
    """A workflow command in one line; properties that are None or empty are left out."""
    given = {key: str(value) for key, value in (properties or {}).items() if value not in (None, "")}
    listed = ",".join(f"{key}={_escape_property(value)}" for key, value in given.items())
    return f"::{name}{' ' if listed else ''}{listed}::{_escape_message(message)}"


def _annotations(summary: Summary, source: PlanSource | None, root: Path) -> Iterator[str]:
    if summary.ok:
        yield write_command("notice", summary.headline, {"title": "shardproof"})
        return
    if not summary.causes:
        yield write_command("error", summary.headline, {"title": "shardproof"})
    shown = _MOST_ANNOTATIONS if len(summary.causes) <= _MOST_ANNOTATIONS else _MOST_ANNOTATIONS - 1
    for cause in summary.causes[:shown]:
        place = find_code_line(cause.group.first, source, root)
        properties = {
            "file": None if place is None else place.path,
            "line": None if place is None else place.line,
            "title": f"shardproof: {cause.group.title}: {cause.group.first.verdict}",
        }
        yield write_command("error", " ".join(cause.sentences) or summary.headline, properties)
    if len(summary.causes) > shown:
        more = f"{len(summary.causes) - shown} more first causes; the report has them"
        yield write_command("error", more, {"title": "shardproof"})


def _escape_message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_message(text).replace(":", "%3A").replace(",", "%2C")
