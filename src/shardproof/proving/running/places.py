"""Places: the line of the user's code that called the module where the trouble starts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shardproof.proving.records import ACTIVATIONS, OF_PARAMETERS, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

    from shardproof.proving.findings import Finding


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


def locate(findings: Sequence[Finding], places: Mapping[str, str]) -> tuple[Finding, ...]:
    """First causes with the line that called their module; `places` by the names under which it was recorded."""
    return tuple(replace(one, place=places.get(_module(one), "")) if one.root else one for one in findings)


def _module(finding: Finding) -> str:
    name, phase = finding.key.name, finding.key.phase
    if phase in ACTIVATIONS:
        return name.partition("/")[0].partition("[")[0]
    if phase in OF_PARAMETERS or phase in (Phase.INITIAL, Phase.BUFFER):
        return name.partition("/")[0].rpartition(".")[0]
    return ""


def _shown(path: str) -> str:
    """Of a package from its own folder on, of a file here from here on: nobody else has the rest."""
    parts = Path(path).parts
    if "site-packages" in parts:
        return "/".join(parts[len(parts) - parts[::-1].index("site-packages") :])
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else Path(path).name
