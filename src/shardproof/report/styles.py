"""Colours of verdicts on a terminal, and when they are wanted: https://no-color.org."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Style = Callable[[str, bool], str]

_GREEN, _RED, _YELLOW = "32", "31", "33"
_OPEN = frozenset({"UNDECIDED", "VACUOUS", "UNSUPPORTED"})  # neither right nor wrong


def style_verdict(text: str, ok: bool) -> str:
    """A verdict, or an answer, in bold green, red, or yellow where it is neither right nor wrong."""
    colour = _GREEN if ok else _YELLOW if text in _OPEN else _RED
    return f"\x1b[1;{colour}m{text}\x1b[0m"


def unstyled(text: str, ok: bool) -> str:
    """The text as it is."""
    del ok
    return text


def wants_colour(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a stream is a terminal that shows colours, and the user has not said NO_COLOR."""
    return stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
