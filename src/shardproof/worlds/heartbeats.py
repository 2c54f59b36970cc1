"""Heartbeats: each spawned rank writes which collective it is in to a memory-mapped file, which the parent reads.

A write to mapped memory needs no system call, so a rank can note every collective.
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
class RankStatus:
    """What one rank last wrote.

    Attributes:
        entered: how many collectives it has begun; joining the world counts as the first.
        left: how many of these it has finished; 0 until the rank has joined.
        call: the collective that it is in, where the two differ.
        beats: how often it has called `beat`.
    """

    entered: int
    left: int
    call: str
    beats: int = 0

    @property
    def waits(self) -> bool:
        """Whether the rank is inside a collective."""
        return self.left > 0 and self.entered > self.left


class HeartbeatWriter:
    """Writes one rank's heartbeats."""

    def __init__(self, directory: Path, rank: int) -> None:
        with (directory / f"rank-{rank}").open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _LENGTH)
        self._entered = 0
        self._beats = 0

    def join(self) -> None:
        """Note that this rank has joined the world."""
        self._entered = 1
        _HEAD.pack_into(self._memory, 0, 1, 1, 0, 0)

    def announce(self, call: Call | None) -> None:
        """Note which collective this rank begins; None: that it has finished it."""
        if call is None:
            _HEAD.pack_into(self._memory, 0, self._entered, self._entered, 0, self._beats)
            return
        text = str(call).encode()[: _LENGTH - _HEAD.size]
        self._memory[_HEAD.size : _HEAD.size + len(text)] = text
        _HEAD.pack_into(self._memory, 0, self._entered + 1, self._entered, len(text), self._beats)
        self._entered += 1

    def beat(self) -> None:
        """Note progress that is no collective of a `Communicator`."""
        self._beats += 1
        _HEAD.pack_into(self._memory, 0, self._entered, self._entered, 0, self._beats)


def create_heartbeat_files(directory: Path, size: int) -> None:
    """Create every rank's file, before any rank starts."""
    for rank in range(size):
        (directory / f"rank-{rank}").write_bytes(bytes(_LENGTH))


def read_heartbeats(directory: Path, size: int) -> tuple[RankStatus, ...]:
    """Every rank's status. A rank may be writing at this moment: rely only on what two readings agree on."""
    statuses = []
    for rank in range(size):
        content = (directory / f"rank-{rank}").read_bytes()
        entered, left, length, beats = _HEAD.unpack_from(content)
        text = content[_HEAD.size : _HEAD.size + length].decode(errors="replace")
        statuses.append(RankStatus(entered=entered, left=left, call=text, beats=beats))
    return tuple(statuses)
