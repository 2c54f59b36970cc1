"""Places: the line of the user's code that called the module where the trouble starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def calling_line() -> str:
    """`file:line in function` of the user's frame that called a module; empty where the prover called it."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - past the hook; inspect's way to it reads source files
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("shardproof.proving"):
            return ""
        if name != "torch" and not name.startswith(("torch.", "shardproof.")):
            return f"{_shown(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def _shown(path: str) -> str:
    """Of a package from its own folder on, of a file here from here on: nobody else has the rest."""
    parts = Path(path).parts
    if "site-packages" in parts:
        return "/".join(parts[len(parts) - parts[::-1].index("site-packages") :])
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else Path(path).name
