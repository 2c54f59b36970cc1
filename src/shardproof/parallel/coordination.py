"""Ranks that read and write files together: where one rank fails, all raise."""

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
class Coordinator:
    """All ranks of the program, in the default process group; or one process without one.

    Attributes:
        task: what the ranks do, as messages name it ("saving").
        device: of the tensors that they exchange.
    """

    task: str
    device: torch.device

    @property
    def is_alone(self) -> bool:
        """Whether there is no process group."""
        return not (dist.is_available() and dist.is_initialized())

    @property
    def is_first(self) -> bool:
        """Whether this rank does what only one may do."""
        return self.is_alone or dist.get_rank() == 0

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """Run the block on every rank; where it raises CannotRunError on one, raise on all.

        Raises:
            CannotRunError: the block's own error on a rank that failed; on the others, one that counts those ranks.
        """
        failure: CannotRunError | None = None
        try:
            yield
        except CannotRunError as error:
            failure = error
        if not self.is_alone:
            failed = torch.tensor([failure is not None], dtype=torch.int32, device=self.device)
            dist.all_reduce(failed)
            if failure is None and failed.item():
                failure = CannotRunError(f"{self.task} failed on {failed.item()} other ranks, which say why")
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
    """Wait until the folder's entries (new names, renames) are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
