"""Crashes: where sharded code fails that runs on one device, in one line: module, source line, entries of the plan."""

from __future__ import annotations

from traceback import walk_tb
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from torch import nn

_MOST_ENTRIES = 4


class ShardedCrashError(CannotRunError):
    """The model's own code fails on a rank, and runs on one device."""


def describe_crash(error: Exception, model: nn.Module, plan: Mapping[str, str]) -> str:
    """Say what fails, in which module, at which line, and which entries of the plan shard that module."""
    frames = list(walk_tb(error.__traceback__))
    names = {id(module): name for name, module in model.named_modules()}
    running = [names[id(frame.f_locals["self"])] for frame, _ in frames if id(frame.f_locals.get("self")) in names]
    module = running[-1] if running else ""
    lines = [(frame.f_code.co_filename, line) for frame, line in frames if not _is_ours_or_torchs(frame)]
    path, line = lines[-1] if lines else ("", 0)
    entries = _list_entries(module, plan)
    said = [
        f"{type(model).__name__} runs on one device and fails when it is sharded",
        f"{type(error).__name__}: {_first_line(error)}",
        f"in module {module or type(model).__name__}",
        f"at {path.rpartition('site-packages/')[2]}:{line}",
        f"plan: {', '.join(entries) if entries else 'no entry for this module'}",
    ]
    return ", ".join(said)


def _is_ours_or_torchs(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in ("torch", "shardproof")


def _list_entries(module: str, plan: Mapping[str, str]) -> list[str]:
    """The entries of a module and of what it holds; else of the module around it."""
    found: list[str] = []
    while not found:
        prefix = f"{module}." if module else ""
        found = [f"{name}={style}" for name, style in plan.items() if name == module or name.startswith(prefix)]
        if not module:
            break
        module = module.rpartition(".")[0]
    more = [f"and {len(found) - _MOST_ENTRIES} more"] if len(found) > _MOST_ENTRIES else []
    return found[:_MOST_ENTRIES] + more


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
