"""Heartbeats: each spawned rank writes which collective or message it is in to a memory-mapped file, which the parent
reads.

A write to mapped memory needs no system call, so a rank can note every one.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from shardproof.worlds.call import Call

_HEAD = struct.Struct("<QQHQH?")
_COUNT = struct.Struct("<Q")
_LENGTH = 512  # of the head and the call in words; then come the counts of messages to and from each rank


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStatus:
    """What one rank last wrote.

    Attributes:
        entered: how many collectives it has begun; joining the world counts as the first.
        left: how many of these it has finished; 0 until the rank has joined.
        call: the collective or message that it is in.
        beats: how often it has called `beat`.
        peer: the other rank of the message that it is in.
        sends: whether it is the sender of that message.
        sent, received: how many messages it has finished sending to, and receiving from, each rank.
    """

    entered: int
    left: int
    call: str
    beats: int = 0
    peer: int | None = None
    sends: bool = False
    sent: tuple[int, ...] = ()
    received: tuple[int, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether the rank is inside a collective or a message."""
        return self.left > 0 and (self.entered > self.left or self.peer is not None)


class HeartbeatWriter:
    """Writes one rank's heartbeats."""

    def __init__(self, directory: Path, rank: int) -> None:
        with (directory / f"rank-{rank}").open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._entered = 0
        self._beats = 0
        self._message: Call | None = None

    def join(self) -> None:
        """Note that this rank has joined the world."""
        self._entered = 1
        self._note(left=1)

    def announce(self, call: Call | None) -> None:
        """Note which collective or message this rank begins; None: that it has finished it."""
        if call is None:
            if self._message is not None:
                self._count(self._message)
                self._message = None
            self._note(left=self._entered)
            return
        text = str(call).encode()[: _LENGTH - _HEAD.size]
        self._memory[_HEAD.size : _HEAD.size + len(text)] = text
        left = self._entered
        if call.peer is not None:
            self._message = call
        else:
            self._entered += 1
        self._note(left=left, length=len(text))

    def beat(self) -> None:
        """Note progress that is no collective or message of a `Communicator`."""
        self._beats += 1
        self._note(left=self._entered)

    def _note(self, *, left: int, length: int = 0) -> None:
        peer, sends = 0, False
        if self._message is not None and self._message.peer is not None:
            peer, sends = self._message.peer + 1, self._message.sends
        _HEAD.pack_into(self._memory, 0, self._entered, left, length, self._beats, peer, sends)

    def _count(self, message: Call) -> None:
        assert message.peer is not None
        offset = _LENGTH + _COUNT.size * (2 * message.peer + (not message.sends))
        (count,) = _COUNT.unpack_from(self._memory, offset)
        _COUNT.pack_into(self._memory, offset, count + 1)


def create_heartbeat_files(directory: Path, size: int) -> None:
    """Create every rank's file, before any rank starts."""
    for rank in range(size):
        (directory / f"rank-{rank}").write_bytes(bytes(_LENGTH + 2 * _COUNT.size * size))


def read_heartbeats(directory: Path, size: int) -> tuple[RankStatus, ...]:
    """Every rank's status. A rank may be writing at this moment: rely only on what two readings agree on."""
    statuses = []
    for rank in range(size):
        content = (directory / f"rank-{rank}").read_bytes()
        entered, left, length, beats, peer, sends = _HEAD.unpack_from(content)
        text = content[_HEAD.size : _HEAD.size + length].decode(errors="replace")
        counts = tuple(count for (count,) in _COUNT.iter_unpack(content[_LENGTH:]))
        statuses.append(
            RankStatus(
                entered=entered,
                left=left,
                call=text,
                beats=beats,
                peer=peer - 1 if peer else None,
                sends=sends,
                sent=counts[::2],
                received=counts[1::2],
            )
        )
    return tuple(statuses)
