"""What a command ends with: its exit code, and its result, on standard output or in a file."""

from __future__ import annotations

import os
import sys
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from pathlib import Path


class Exit(IntEnum):
    """The exit codes, the same of every command."""

    PASSED = 0  # equal, proved, or a certificate that holds
    DIVERGED = 1
    COULD_NOT_RUN = 2

    @classmethod
    def of(cls, ok: bool) -> Exit:
        """Return the exit code of a command that ran to its end."""
        return cls.PASSED if ok else cls.DIVERGED


class Format(StrEnum):
    """How a result is written."""

    text = "text"
    json = "json"


class ProofFormat(StrEnum):
    """How a proof is written."""

    text = "text"
    json = "json"
    markdown = "markdown"
    github = "github"
    sarif = "sarif"


def check_writable(path: Path, *, option: str = "--output") -> None:
    """Refuse, before the work starts, a path at which the result could not be written.

    Raises:
        CannotRunError: the folder is missing or not writable, or the path exists and is not a file.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise CannotRunError(f"{option} {printable(path)} is not a regular file; give the path of a file")
    if not target.parent.is_dir():
        raise CannotRunError(f"{option} {printable(path)}: its folder does not exist; make it first")
    if not os.access(target.parent, os.W_OK):
        raise CannotRunError(f"{option} {printable(path)}: its folder cannot be written to; give another")


def write_result(text: str, output: Path | None) -> None:
    """Write a result and a newline to the file `output`, or to standard output where that is None.

    Raises:
        CannotRunError: the file cannot be written.
    """
    if output is None:
        sys.stdout.write(text + "\n")
    else:
        write_atomically(output, text + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write beside the target, then rename over it: a reader sees the old file or the new one, never half of one.

    Raises:
        CannotRunError: the file cannot be written.
    """
    target = path.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        try:
            with beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise CannotRunError(f"{printable(path)} cannot be written: {error.strerror}") from error
