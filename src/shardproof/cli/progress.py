"""Progress of a proof: one line on stderr that says what is being run. Only on a terminal."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress_shown() -> Iterator[Callable[[str], None] | None]:
    """Yield a function that shows a message and the seconds since the start; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape

    started = time.monotonic()
    with Console(stderr=True).status("") as status:
        yield lambda told: status.update(f"{escape(told)} ({time.monotonic() - started:.0f} s)")
