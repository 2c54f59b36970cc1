"""The board: which collective each process is in, in files that processes map and the parent reads.

Writing to a mapped file costs no system call, so that a rank can note every collective; it is read when a run is stuck.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from shardproof.worlds.call import Call

_HEAD = struct.Struct("<QQHQ")
_LENGTH = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far one rank has come: `entered` collectives of which it has left `left`, in `call` when they differ.

    Joining the world counts as the first, so that `left` is 0 until the rank runs. `beats` counts the other signs of
    life that the rank has given.
    """

    entered: int
    left: int
    call: str
    beats: int = 0

    @property
    def waits(self) -> bool:
        """Whether the rank is inside a collective."""
        return self.left > 0 and self.entered > self.left


class BoardWriter:
    """One rank's line on the board."""

    def __init__(self, directory: Path, rank: int) -> None:
        with (directory / f"rank-{rank}").open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _LENGTH)
        self._entered = 0
        self._beats = 0

    def join(self) -> None:
        """Say that this rank has joined the world."""
        self._entered = 1
        _HEAD.pack_into(self._memory, 0, 1, 1, 0, 0)

    def announce(self, call: Call | None) -> None:
        """Say which collective this rank enters, or that it has left it."""
        if call is None:
            _HEAD.pack_into(self._memory, 0, self._entered, self._entered, 0, self._beats)
            return
        text = str(call).encode()[: _LENGTH - _HEAD.size]
        self._memory[_HEAD.size : _HEAD.size + len(text)] = text
        _HEAD.pack_into(self._memory, 0, self._entered + 1, self._entered, len(text), self._beats)
        self._entered += 1

    def beat(self) -> None:
        """Say, outside our own collectives, that this rank gets somewhere."""
        self._beats += 1
        _HEAD.pack_into(self._memory, 0, self._entered, self._entered, 0, self._beats)


def lay_out(directory: Path, size: int) -> None:
    """Make the board's files, before any rank starts."""
    for rank in range(size):
        (directory / f"rank-{rank}").write_bytes(bytes(_LENGTH))


def read_board(directory: Path, size: int) -> tuple[Standing, ...]:
    """Where every rank stands. A rank may write at this moment: believe what two readings say alike."""
    standings = []
    for rank in range(size):
        content = (directory / f"rank-{rank}").read_bytes()
        entered, left, length, beats = _HEAD.unpack_from(content)
        text = content[_HEAD.size : _HEAD.size + length].decode(errors="replace")
        standings.append(Standing(entered=entered, left=left, call=text, beats=beats))
    return tuple(standings)
