"""A tensor as one rank holds it, read in parts: from a file, or in memory."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from shardproof.errors import CannotRunError
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import torch

# A process may open 1024 files on most systems, and a checkpoint may have more.
_MOST_OPEN = 64


class Piece(Protocol):
    """A tensor of which any part can be read."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...

    def read_into(self, out: torch.Tensor, leading: tuple[int, ...], first: int) -> None:
        """Fill `out` [k, *inner] with `self[*leading, first : first + k]`; `out` has the piece's dtype.

        Raises:
            CannotRunError: the file cannot be read, or has been changed.
        """


@dataclass(slots=True)
class OpenFiles:
    """Files that are open for reading; the one not used for longest is closed when there are too many."""

    descriptors: OrderedDict[Path, int] = field(default_factory=OrderedDict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self.descriptors:
            os.close(self.descriptors.popitem()[1])

    def read(self, path: Path, into: memoryview, offset: int) -> None:
        """Fill the buffer with the bytes of the file from `offset` on."""
        try:
            done = 0
            while done < len(into):
                count = os.preadv(self._open(path), [into[done:]], offset + done)
                if count == 0:
                    raise CannotRunError(
                        f"{printable(path)} was cut short while it was read; compare again when nothing writes to it"
                    )
                done += count
        except OSError as error:
            raise CannotRunError(f"{printable(path)} cannot be read: {error.strerror}") from error

    def _open(self, path: Path) -> int:
        if path not in self.descriptors:
            if len(self.descriptors) >= _MOST_OPEN:
                os.close(self.descriptors.popitem(last=False)[1])
            self.descriptors[path] = os.open(path, os.O_RDONLY)
        self.descriptors.move_to_end(path)
        return self.descriptors[path]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePiece:
    """A contiguous tensor in a file: row-major, its first element at byte `offset`.

    It is read by calls and not mapped: a file that is cut short meanwhile is then an error and not the end of the
    process, and the memory that is used is that of the buffers.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    files: OpenFiles

    def read_into(self, out: torch.Tensor, leading: tuple[int, ...], first: int) -> None:
        if out.numel() == 0:
            return
        start = find_offset(self.shape or (1,), leading, first) * self.dtype.itemsize
        self.files.read(self.path, memory_of(out), self.offset + start)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPiece:
    """A tensor in memory, or mapped from a file."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def read_into(self, out: torch.Tensor, leading: tuple[int, ...], first: int) -> None:
        tensor = self.tensor if self.shape else self.tensor.view(1)
        out.copy_(tensor[leading][first : first + out.shape[0]])


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadablePiece:
    """A tensor that stands in a file and cannot be read, and why."""

    shape: tuple[int, ...]
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        raise CannotRunError(self.reason)

    def read_into(self, out: torch.Tensor, leading: tuple[int, ...], first: int) -> None:  # noqa: ARG002 - a Piece
        raise CannotRunError(self.reason)


def find_offset(shape: tuple[int, ...], leading: tuple[int, ...], first: int) -> int:
    """The position in row-major order of `self[*leading, first]`, all further indices being 0."""
    inner = math.prod(shape[len(leading) + 1 :])
    place = first * inner
    stride = inner * shape[len(leading)]
    for index, size in zip(reversed(leading), reversed(shape[: len(leading)]), strict=True):
        place += index * stride
        stride *= size
    return place


def memory_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, for writing."""
    import torch

    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
