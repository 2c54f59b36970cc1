"""Ranks that read and write files together: what one of them could not do, none of them goes on from."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """All ranks of the program.

    Attributes:
        what: they do, for messages.
        device: on which they can talk.
    """

    what: str
    device: torch.device

    @property
    def alone(self) -> bool:
        """Whether there is no process group: one process."""
        return not (dist.is_available() and dist.is_initialized())

    @property
    def first(self) -> bool:
        """Whether this rank does what is done once."""
        return self.alone or dist.get_rank() == 0

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Run the block on every rank; then none goes on unless all have come through.

        Raises:
            CannotRunError: the block's own on a rank where it was raised, and one that says so on the others.
        """
        failure: CannotRunError | None = None
        try:
            yield
        except CannotRunError as error:
            failure = error
        if not self.alone:
            failed = torch.tensor([failure is not None], dtype=torch.int32, device=self.device)
            dist.all_reduce(failed)
            if failure is None and failed.item():
                failure = CannotRunError(f"{self.what} failed on {failed.item()} other ranks, which say why")
        if failure is not None:
            raise failure


def write_flushed(path: Path, text: str) -> None:
    """Write a file, and wait until it is on disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def flush_file(path: Path) -> None:
    """Wait until the file is on disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the names in the folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
