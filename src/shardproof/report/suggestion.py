"""What would mend a wrong plan, in words: the entries, and what the same proof says with them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from shardproof.report.summary import summarize
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardproof.frameworks.transformers import Suggestion


def describe_suggestion(suggestion: Suggestion) -> Iterator[str]:
    """Lines for a terminal, control characters escaped."""
    times = f"{suggestion.tried} {'try' if suggestion.tried == 1 else 'tries'}"
    if suggestion.proof is None:
        yield f"Suggestion: no single entry found of {suggestion.tried} tried."
        return
    many, them = ("entries", "them") if len(suggestion.entries) > 1 else ("an entry", "it")
    yield f"Suggestion: {many} put into the plan, found in {times}:"
    for pattern, style in suggestion.entries.items():
        yield f"  --plan-set {printable(shlex.quote(f'{pattern}={style}'))}"
    yield f"The same proof with {them}: {summarize(suggestion.proof).headline}"
