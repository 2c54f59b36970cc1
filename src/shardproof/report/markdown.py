"""A proof as Markdown: for the summary of a CI job, or a comment on a change. Names are untrusted and are escaped."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from shardproof.report.summary import summarize

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from shardproof.proving.findings import Proof
    from shardproof.report.summary import Summary

_MOST_CAUSES = 20
_MARKS = re.compile(
    r"""[\\`*_\[\]|~#$]  # markup wherever it stands
    | :(?!\s|$)          # of a link
    | (?<=www)\.         # of a link without a protocol
    | ^[-+=]             # of a list, or of a heading
    """,
    flags=re.VERBOSE,
)


def render_markdown(proof: Proof, *, subject: str = "") -> str:
    """The summary as GitHub's Markdown.

    Args:
        proof: what is reported.
        subject: what was proved, as the user named it.
    """
    return "\n".join(_lines(summarize(proof), subject))


def escape_markdown(text: str) -> str:
    """Text of any kind as text of Markdown: no markup, no HTML, no link, and nobody is mentioned.

    In a line of its own or inside one; a list's mark at the beginning is escaped too.
    """
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKS.sub(r"\\\g<0>", text).replace("@", "@&#8203;")
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", text)  # no numbered list


def quote_code(text: str) -> str:
    """Text as a code span: between more backquotes than it has in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    marks, pad = "`" * (longest + 1), " " * ("`" in text)
    return f"{marks}{pad}{text}{pad}{marks}"


def _lines(summary: Summary, subject: str) -> Iterator[str]:
    yield f"### shardproof: {escape_markdown(summary.headline)}"
    yield ""
    if subject:
        yield quote_code(subject)
        yield ""
    yield from _bullets((*summary.circumstances, *summary.sharding))
    yield from _causes(summary)
    for one in summary.allowed:
        yield ""
        yield f"**Allowed by** {quote_code(one.pattern)}"
        yield ""
        yield from _bullets(f"{group.title}: {group.first.verdict}" for group in one.groups)
    yield from _section("What follows", [f"{one.title} {one.verdict}" for one in summary.follows])
    yield from _section("Drawn by the ranks for themselves, which is not wrong", summary.drawn)
    yield from _section("Notes", (*summary.unused, *(note.strip() for note in summary.notes)))


def _causes(summary: Summary) -> Iterator[str]:
    if summary.causes:
        yield ""
        yield "**First causes**"
        yield ""
    for cause in islice(summary.causes, _MOST_CAUSES):
        yield f"- **{escape_markdown(cause.group.title)}: {cause.group.first.verdict}**"
        yield from (f"  {line}" for line in _bullets(cause.sentences))
    if len(summary.causes) > _MOST_CAUSES:
        yield f"- and {len(summary.causes) - _MOST_CAUSES} more"


def _section(title: str, sentences: Iterable[str]) -> Iterator[str]:
    bullets = list(_bullets(sentences))
    if bullets:
        yield ""
        yield f"**{title}**"
        yield ""
        yield from bullets


def _bullets(sentences: Iterable[str]) -> Iterator[str]:
    yield from (f"- {escape_markdown(sentence)}" for sentence in sentences)
