"""Exceptions of other people's code, in words: what was raised, and by which line of theirs."""

from __future__ import annotations

import linecache
import sys
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.source_lines import describe_line, shorten_path

if TYPE_CHECKING:
    from types import TracebackType

_MOST_SOURCE = 100
_STAGES = "torch.distributed.pipelining."


def describe_error(error: BaseException) -> str:
    """One clause: "NameError: name 'y' is not defined (step.py:12 in loss: `return x - y`)".

    The line is the innermost of the user's code; where only libraries were running, the innermost of theirs. A
    `CannotRunError` is said in its own words, and the errors of this package have their lines in their messages.
    Notes on the error follow the line: in a backward they name the module, which no line does.
    """
    outer, error = error, _find_cause(error)
    if isinstance(error, CannotRunError):
        return str(error)
    message = str(error)
    told = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if type(error).__module__.partition(".")[0] == __package__:
        return told
    line = _find_line(error.__traceback__) or _find_line(outer.__traceback__)
    return ", ".join([f"{told} ({line})" if line else told, *getattr(error, "__notes__", ())])


def _find_cause(error: BaseException) -> BaseException:
    """What happened in a stage of a pipeline: PyTorch raises an error of its own from it, with the stage's tensors."""
    while error.__cause__ is not None and _raised_in(error).startswith(_STAGES):
        error = error.__cause__
    return error


def _raised_in(error: BaseException) -> str:
    """The name of the module that raised the error."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return "" if traceback is None else str(traceback.tb_frame.f_globals.get("__name__", ""))


def _find_line(traceback: TracebackType | None) -> str:
    own = library = ""
    while traceback is not None:
        frame = traceback.tb_frame
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in ("torch", __package__) and package not in sys.stdlib_module_names - {"__main__"}:
            line = _describe(frame.f_code.co_filename, traceback.tb_lineno, frame.f_code.co_name)
            if "site-packages" in frame.f_code.co_filename:
                library = line
            else:
                own = line
        traceback = traceback.tb_next
    return own or library


def _describe(path: str, number: int, function: str) -> str:
    source = linecache.getline(path, number).strip()
    if len(source) > _MOST_SOURCE:
        source = f"{source[:_MOST_SOURCE]}..."
    return describe_line(shorten_path(path), number, function) + (f": `{source}`" if source else "")
