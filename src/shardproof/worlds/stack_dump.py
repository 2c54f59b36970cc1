"""Where a rank's process stands when it gets nowhere: asked by a signal, told by the interpreter from any C code.

The board knows our own collectives only. A rank that hangs in another one, or in the user's code, is seen like this.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import time
from pathlib import Path

_SECONDS = 2.0
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$')
_OURS = (f"{os.sep}torch{os.sep}", f"{os.sep}shardproof{os.sep}", "<")


def answer_when_asked() -> None:
    """Write this process's stack to stderr whenever it is asked."""
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)


def ask(pid: int, log: Path) -> str:
    """Where the process stands, in words; empty if it does not answer. `log` is what it writes to stderr."""
    if not hasattr(signal, "SIGUSR1"):
        return ""
    before = log.stat().st_size
    try:
        os.kill(pid, signal.SIGUSR1)
    except ProcessLookupError:
        return ""
    end = time.monotonic() + _SECONDS
    told = ""
    while time.monotonic() < end and not (told and told == _read(log, before)):
        told = _read(log, before)
        time.sleep(0.1)
    return describe(told)


def describe(stacks: str) -> str:
    """The innermost frame of the main thread, and the innermost that is neither ours nor PyTorch's."""
    frames = [
        match
        for line in stacks.rpartition("(most recent call first):")[2].splitlines()
        if (match := _FRAME.match(line))
    ]
    if not frames:
        return ""
    foreign = [frame for frame in frames if not any(part in frame["file"] for part in _OURS)]
    place = f" at {Path(foreign[0]['file']).name}:{foreign[0]['line']}" if foreign else ""
    return f"{frames[0]['name']}{place}"


def _read(log: Path, start: int) -> str:
    return log.read_bytes()[start:].decode(errors="replace")
