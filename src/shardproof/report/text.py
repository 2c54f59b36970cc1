"""A proof as text for a terminal: the answer, first causes, what follows from them, what is drawn, bounds, numbers.

The summary fits a screen; `verbose` has every group, and every tensor in a line of its own.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from shardproof.report.styles import style_verdict, unstyled
from shardproof.report.summary import summarize
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from shardproof.proving.findings import Finding, Proof
    from shardproof.report.first_causes import FirstCause
    from shardproof.report.styles import Style
    from shardproof.report.summary import Allowed, Summary

MOST_GROUPS = 5  # of first causes, of what is allowed and of what is drawn, each


def render_text(proof: Proof, *, verbose: bool = False, colour: bool = False) -> str:
    """The report; names are printed with control characters escaped.

    Args:
        proof: what is reported.
        verbose: all groups, and a line for each tensor.
        colour: verdicts in colours of a terminal (ANSI).
    """
    style = style_verdict if colour else unstyled
    lines = list(_lines(summarize(proof), style, most=None if verbose else MOST_GROUPS))
    if verbose:
        lines += ["", "All tensors, in execution order:"]
        lines += [_tensor_line(finding, style) for finding in proof.findings]
    return "\n".join(lines)


def _lines(summary: Summary, style: Style, *, most: int | None) -> Iterator[str]:
    told = ", ".join(f"{count} {style(verdict, verdict.ok)}" for verdict, count in summary.counts)
    yield f"{style(summary.answer, summary.ok)}: {summary.tensors} tensors: {told}"
    yield from summary.circumstances
    yield from summary.sharding
    yield from _cause_lines(summary.causes, style, most)
    yield from _allowed_lines(summary.allowed, style, most)
    yield from summary.unused
    if summary.follows:
        yield ""
        yield "What follows from them:"
        yield from (f"  {one.title} {style(one.verdict, one.verdict.ok)}" for one in summary.follows)
    if summary.drawn:
        yield ""
        yield "Drawn by the ranks for themselves, which is not wrong:"
        yield from _first_of((f"  {one}" for one in summary.drawn), most)
    yield ""
    yield from summary.notes


def _cause_lines(causes: tuple[FirstCause, ...], style: Style, most: int | None) -> Iterator[str]:
    if causes:
        yield ""
        yield "First causes:"
    for cause in islice(causes, most):
        verdict = cause.group.first.verdict
        yield f"  {cause.group.title}: {style(verdict, verdict.ok)}"
        yield from (f"    {sentence}" for sentence in cause.sentences)
    yield from _rest(len(causes), most, "first cause")


def _allowed_lines(allowed: tuple[Allowed, ...], style: Style, most: int | None) -> Iterator[str]:
    for one in allowed:
        yield ""
        yield f"Allowed by {one.pattern!r}:"
        yield from _first_of((f"  {group.title}: {style(group.first.verdict, False)}" for group in one.groups), most)


def _first_of(lines: Iterable[str], most: int | None) -> Iterator[str]:
    told = list(lines)
    yield from islice(told, most)
    yield from _rest(len(told), most, "group")


def _rest(count: int, most: int | None, what: str) -> Iterator[str]:
    """How many are not shown, and what shows them."""
    if most is not None and count > most:
        yield f"  and {count - most} more {what}{'s' * (count - most != 1)}: `-v` has all"


def _tensor_line(finding: Finding, style: Style) -> str:
    differs = f", {finding.differing} of {finding.elements} elements differ" if finding.differing else ""
    root = ", a first cause" if finding.root else ""
    bound = "" if finding.false_accept is None else f", by chance at most {finding.false_accept:.1g}"
    verdict = style(finding.verdict, finding.verdict.ok)
    return f"  {printable(str(finding.key))}: {verdict}{differs}{root}{bound}"
