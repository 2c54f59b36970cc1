"""The spawned world: one gloo process a rank on this machine, which find one another through a file, without a port.

The parent alone judges: it hears each rank's report over a private pipe, sees from the board which collective each is
in, and ends every process when one rank fails or all fall silent. A rank whose parent dies sees its stdin close,
cleans up and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardproof.errors import CannotRunError
from shardproof.worlds.diagnosis import blame_board, name_ranks, say_waiting
from shardproof.worlds.heartbeats import Standing, lay_out, read_board
from shardproof.worlds.stack_dump import ask
from shardproof.worlds.transport import pack, unpack
from shardproof.worlds.world import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.diagnosis import Failure
    from shardproof.worlds.world import R, Ts

STARTUP_SECONDS_A_RANK = 5.0
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 1.0

# The parent's path comes first, so that a rank finds the very modules that the parent would.
_BOOT = """\
import json, sys
path, options = json.loads(sys.argv[1])
sys.path[:] = path
from shardproof.worlds.rank_main import run_rank
run_rank(**options)
"""

_inside_rank = False


def forbid_spawning() -> None:
    """Say that this process is itself a rank: a script that spawns at its top level must not do so in every rank."""
    global _inside_rank  # noqa: PLW0603 - true of a process, once and for all
    _inside_rank = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnedWorld:
    """One process a rank, on this machine; see `World`.

    Each rank gets its own copy of `fn`'s arguments, and its results come back as copies. The run ends `timeout` seconds
    after the last sign of life: a collective begun or done, or a beat, by any rank. Starting up may take 5 seconds more
    a rank.
    What ranks print goes to stderr; what they write to stderr is shown only when one dies.
    """

    size: int
    timeout: float = DEFAULT_TIMEOUT

    def __post_init__(self) -> None:
        if self.size < 1:
            raise CannotRunError(f"a world of {self.size} ranks was asked for; give at least 1")
        if not self.timeout > 0:
            raise CannotRunError(f"a timeout of {self.timeout} s was asked for; give a positive number of seconds")

    @property
    def speaks(self) -> bool:
        return True

    def run(self, fn: Callable[[Communicator, *Ts], R], *args: *Ts) -> list[R]:
        if _inside_rank:
            raise CannotRunError(
                "a rank tried to spawn a world of its own: where a script runs one, "
                'put that below `if __name__ == "__main__":`'
            )
        work = pack((fn, args))
        with tempfile.TemporaryDirectory(prefix="shardproof-") as name:
            directory = Path(name)
            (directory / "work").write_bytes(work)
            lay_out(directory, self.size)
            processes: list[_RankProcess] = []
            try:
                # One by one into the list, so that an interrupt on the way leaves none unknown.
                processes.extend(_start(rank, self.size, directory, self.timeout) for rank in range(self.size))
                _Watch(directory=directory, processes=processes, timeout=self.timeout).until_all_reported()
                _dismiss(processes)
            finally:
                for one in processes:
                    one.kill()
        return [one.result for one in processes]


@dataclass(slots=True, kw_only=True)
class _RankProcess:
    rank: int
    process: subprocess.Popen[bytes]
    channel: Connection
    log: Path
    result: Any = None
    failure: Failure | None = None
    reported: bool = False
    dead: bool = False

    def receive(self) -> None:
        """Take in the report that has come, or the end of a process that made none."""
        try:
            self.result, self.failure = unpack(self.channel.recv_bytes())
            self.reported = True
        except (EOFError, OSError):
            # It is dead already, or closed its channel on purpose, and has no more to say.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=_GRACE_SECONDS)
            self.dead = True

    @property
    def pending(self) -> bool:
        return not (self.reported or self.dead)

    def describe_death(self) -> str:
        """How the process ended, in words, with the last line that it wrote to stderr."""
        code = self.process.returncode
        if code is None:
            how = "closed its channel without a report"
        elif code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code} before it had a result"
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"rank {self.rank} {how}" + (f" ({lines[-1].strip()[:300]})" if lines else "")

    def kill(self) -> None:
        """End the process if it still runs, reap it, and close what is open to it."""
        self.process.kill()
        self.process.wait()
        self.channel.close()
        if self.process.stdin is not None:
            self.process.stdin.close()


def _start(rank: int, size: int, directory: Path, timeout: float) -> _RankProcess:
    threads = max(1, _count_cores() // size)
    receiver, sender = Pipe(duplex=False)
    options = {
        "rank": rank,
        "size": size,
        "directory": str(directory),
        "channel": sender.fileno(),
        # Longer than the parent waits, so that the parent, which sees all ranks, is the one that judges.
        "timeout": timeout + STARTUP_SECONDS_A_RANK * (size + 1),
        "threads": threads,
    }
    log = directory / f"stderr-{rank}"
    with log.open("wb") as stderr:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-c", _BOOT, json.dumps([sys.path, options])],
            stdin=subprocess.PIPE,
            stdout=2,
            stderr=stderr,
            pass_fds=[sender.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        )
    sender.close()
    return _RankProcess(rank=rank, process=process, channel=receiver, log=log)


def _dismiss(processes: list[_RankProcess]) -> None:
    """Let the ranks go, and give them a moment to do so."""
    for one in processes:
        assert one.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone already
            one.process.stdin.write(b".")
            one.process.stdin.close()
    for one in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.process.wait(timeout=_GRACE_SECONDS)


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(slots=True, kw_only=True)
class _Watch:
    """The parent's eye on the ranks."""

    directory: Path
    processes: list[_RankProcess]
    timeout: float
    board: tuple[Standing, ...] = ()
    changed_at: float = field(default_factory=time.monotonic)

    def until_all_reported(self) -> None:
        """Return when every rank has reported a result.

        Raises:
            CannotRunError: one failed or died, the ranks call different collectives, or nobody has moved for too long.
        """
        follows_at: float | None = None
        while pending := [one for one in self.processes if one.pending]:
            by_channel = {one.channel: one for one in pending}
            for channel in wait(list(by_channel), timeout=_POLL_SECONDS):
                by_channel[channel].receive()  # type: ignore[index]
            now = time.monotonic()
            causes = [one for one in self.processes if one.dead or (one.failure and not one.failure.follows)]
            if causes:
                raise self._tell(causes)
            # A collective that breaks off has its cause in another rank, whose own word is likely on its way.
            effects = [one for one in self.processes if one.failure]
            follows_at = follows_at or (now if effects else None)
            if follows_at and now - follows_at > _GRACE_SECONDS:
                raise self._tell(effects)
            self._judge_silence(now)
        if any(one.failure for one in self.processes):
            raise self._tell([one for one in self.processes if one.failure])

    def _judge_silence(self, now: float) -> None:
        size = len(self.processes)
        board = read_board(self.directory, size)
        if board != self.board:
            self.board, self.changed_at = board, now
            return
        returned = {one.rank for one in self.processes if one.reported and not one.failure}
        if parted := blame_board(board, returned):
            raise CannotRunError(parted)
        absent = [rank for rank, standing in enumerate(board) if not standing.left]
        patience = self.timeout + (STARTUP_SECONDS_A_RANK * size if absent else 0)
        if now - self.changed_at <= patience:
            return
        if absent:
            raise CannotRunError(f"{name_ranks(absent)} did not join within {patience:g} s of the others")
        waiting = [rank for rank, standing in enumerate(board) if standing.waits]
        missing = [rank for rank in range(size) if rank not in waiting and rank not in returned]
        late = f"{name_ranks(missing or waiting)} did not get anywhere for {patience:g} s"
        stands = {one.rank: ask(one.process.pid, one.log) for one in self.processes if one.rank in missing}
        late += "".join(f"; rank {rank} is in {place}" for rank, place in stands.items() if place)
        raise CannotRunError(late + (f"; {say_waiting(waiting, board[waiting[0]].call)}" if waiting else ""))

    def _tell(self, ranks: list[_RankProcess]) -> CannotRunError:
        """The error that names the ranks to blame, or those that suffer if no more is known."""
        board = read_board(self.directory, len(self.processes))
        told = [f"rank {one.rank}: {one.failure.message}" if one.failure else one.describe_death() for one in ranks]
        blamed = {one.rank for one in ranks}
        waiting = [rank for rank, standing in enumerate(board) if standing.waits and rank not in blamed]
        error = CannotRunError(
            "; ".join(told) + (f"; {say_waiting(waiting, board[waiting[0]].call)}" if waiting else "")
        )
        for one in ranks:
            if one.failure:
                error.add_note(f"On rank {one.rank}:\n{one.failure.trace}")
        return error
