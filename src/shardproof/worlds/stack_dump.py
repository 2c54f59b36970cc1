"""Where a hung rank's process is: asked by a signal, answered by the interpreter even inside C code.

Heartbeats know only collectives of a `Communicator`. This also finds a rank that hangs in another one, or in user code.
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
_OURS = (*(f"{os.sep}{package}{os.sep}" for package in ("torch", "shardproof", "multiprocessing")), "<")


def dump_stack_when_signalled() -> None:
    """Write this process's stacks to stderr whenever it gets SIGUSR1."""
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, all_threads=True)


def ask_for_stack(pid: int, log: Path) -> str:
    """The position of the process, in words; empty if it does not answer. `log` is the file that is its stderr."""
    if not hasattr(signal, "SIGUSR1"):
        return ""
    before = log.stat().st_size
    try:
        os.kill(pid, signal.SIGUSR1)
    except ProcessLookupError:
        return ""
    end = time.monotonic() + _SECONDS
    answer = ""
    while time.monotonic() < end and not (answer and answer == _read(log, before)):
        answer = _read(log, before)
        time.sleep(0.1)
    return find_position(answer)


def find_position(stacks: str) -> str:
    """The innermost function of the main thread, and its innermost line outside PyTorch and this package."""
    frames = [
        match
        for line in stacks.rpartition("(most recent call first):")[2].splitlines()
        if (match := _FRAME.match(line))
    ]
    if not frames:
        return ""
    user_frames = [frame for frame in frames if not any(part in frame["file"] for part in _OURS)]
    line = f" at {Path(user_frames[0]['file']).name}:{user_frames[0]['line']}" if user_frames else ""
    return f"{frames[0]['name']}{line}"


def _read(log: Path, start: int) -> str:
    return log.read_bytes()[start:].decode(errors="replace")
