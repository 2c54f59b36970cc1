"""Source lines: which line of the user's code is running, for error messages and findings."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def user_line() -> str:
    """`file:line in function` of the innermost frame outside torch and this package; empty if there is none."""
    frame = _find_user_frame(sys._getframe(1))  # noqa: SLF001 - as in `calling_line`
    return "" if frame is None else _describe(frame, frame.f_code.co_filename)


def calling_line() -> str:
    """`file:line in function` of the user's frame that called a module, to be asked in a hook of that module.

    Empty where the prover itself called the module. The path begins at the package's folder or at the current one, so
    that two machines describe the same line alike.
    """
    caller: FrameType | None = sys._getframe(2)  # noqa: SLF001 - past the hook; inspect's way to it reads source files
    frame = _find_user_frame(caller, stop_at="shardproof.proving")
    return "" if frame is None else _describe(frame, shorten_path(frame.f_code.co_filename))


def innermost_line() -> str:
    """`file:line in function` of the innermost frame of the user's code, with a short path.

    Empty where the prover's own training called the library in between, as it does an optimizer's step.
    """
    frame = _find_user_frame(sys._getframe(1), stop_at="shardproof.proving.running.training")  # noqa: SLF001 - as above
    return "" if frame is None or _starts_a_rank(frame) else _describe(frame, shorten_path(frame.f_code.co_filename))


def access_line() -> str:
    """`file:line in function` of the innermost frame of the user's code, with a short path; empty if there is none.

    For code that PyTorch calls below the prover's own modes: the prover's frames are skipped, and so is what a rank's
    thread or process was started by.
    """
    frame = _find_user_frame(sys._getframe(1))  # noqa: SLF001 - as in `calling_line`
    if frame is None or _starts_a_rank(frame):
        return ""
    return _describe(frame, shorten_path(frame.f_code.co_filename))


def _starts_a_rank(frame: FrameType) -> bool:
    """Whether it is what a rank's thread or process was started by."""
    return frame.f_globals.get("__name__") == "threading" or frame.f_code.co_filename.startswith("<")


def _find_user_frame(frame: FrameType | None, *, stop_at: str | None = None) -> FrameType | None:
    """The first frame outward that is the user's; None if there is none, or one of package `stop_at` comes first."""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if stop_at is not None and name.startswith(stop_at):
            return None
        if not name.startswith(("torch.", "shardproof.")) and name not in ("torch", "contextlib"):
            return frame
        frame = frame.f_back
    return None


def _describe(frame: FrameType, path: str) -> str:
    return describe_line(path, frame.f_lineno, frame.f_code.co_name)


def describe_line(path: str, number: int, function: str) -> str:
    """`file:line in function`, the form of every line of the user's that is named."""
    return f"{path}:{number} in {function}"


def parse_line(line: str) -> tuple[str, int, str] | None:
    """Path, number and function of what `describe_line` made; None for any other text."""
    found = re.fullmatch(r"(.+):(\d+) in (.+)", line, flags=re.DOTALL)
    return None if found is None else (found[1], int(found[2]), found[3])


def shorten_path(path: str) -> str:
    """The path within site-packages, or within the current folder; of any other file its name."""
    parts = Path(path).parts
    if "site-packages" in parts:
        return "/".join(parts[len(parts) - parts[::-1].index("site-packages") :])
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else Path(path).name
