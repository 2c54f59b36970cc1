"""Progress of a proof: one line on stderr that says what is being run, on a terminal only."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress_shown() -> Iterator[Callable[[str], None] | None]:
    """What is told is shown until the next, with the seconds since the start; None where nobody looks on."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape

    started = time.monotonic()
    with Console(stderr=True).status("") as status:
        yield lambda told: status.update(f"{escape(told)} ({time.monotonic() - started:.0f} s)")
