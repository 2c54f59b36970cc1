"""A result on disk: whole, or not there at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from pathlib import Path


def check_writable(path: Path) -> None:
    """Say before the work, not after it, that the result would have no place to go.

    Raises:
        CannotRunError: the folder is missing or not writable, or the path is something else than a file.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise CannotRunError(f"--output {printable(path)} is not a regular file; give the path of a file")
    if not target.parent.is_dir():
        raise CannotRunError(f"--output {printable(path)}: its folder does not exist; make it first")
    if not os.access(target.parent, os.W_OK):
        raise CannotRunError(f"--output {printable(path)}: its folder cannot be written to; give another")


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
