"""The spawned world: one gloo process a rank on this machine, with a file for rendezvous, so that no port is needed.

The parent decides when a run has failed: it gets each rank's report over a private pipe, reads from its heartbeats
which collective or message it is in, and ends every process when one rank fails or none makes progress. When the parent
dies, that pipe closes, and the rank removes the run's files and ends.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardproof.errors import CannotRunError
from shardproof.worlds.diagnosis import describe_waits, diagnose_stall, name_ranks
from shardproof.worlds.fork_server import ForkedProcess, Inherited, Surroundings, count_cores, describe_end
from shardproof.worlds.heartbeats import RankStatus, create_heartbeat_files, read_heartbeats
from shardproof.worlds.rank_environment import find_free_port, make_environment
from shardproof.worlds.rank_main import run_rank
from shardproof.worlds.stack_dump import ask_for_stack
from shardproof.worlds.transport import pack, unpack
from shardproof.worlds.world import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.diagnosis import Failure
    from shardproof.worlds.world import R, Ts

STARTUP_SECONDS_A_RANK = 10.0
_POLL_SECONDS = 0.1
_GRACE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnedWorld:
    """One process a rank, on this machine; see `World`.

    Each rank gets its own copy of `fn`'s arguments, and its result is returned as a copy. A run is given up `timeout`
    seconds after the last heartbeat of any rank: a collective begun or finished, or a beat. Start-up may take 10
    seconds more for each rank. What ranks print goes to stderr; what they write to stderr is shown only when one dies.
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
        work = pack((fn, args))
        with tempfile.TemporaryDirectory(prefix="shardproof-") as name:
            directory = Path(name)
            (directory / "work").write_bytes(work)
            create_heartbeat_files(directory, self.size)
            processes: list[_RankProcess] = []
            try:
                # One at a time into the list, so that an interrupt leaves no process unknown.
                port = find_free_port()
                processes.extend(_start(rank, self.size, directory, self.timeout, port) for rank in range(self.size))
                _Supervisor(directory=directory, processes=processes, timeout=self.timeout).wait_for_reports()
                _end(processes)
            finally:
                for one in processes:
                    one.kill()
        return [one.result for one in processes]


@dataclass(slots=True, kw_only=True)
class _RankProcess:
    rank: int
    process: ForkedProcess
    channel: Connection
    log: Path
    result: Any = None
    failure: Failure | None = None
    reported: bool = False
    dead: bool = False

    def receive(self) -> None:
        """Receive the process's report, or note that it ended without one."""
        try:
            self.result, self.failure = unpack(self.channel.recv_bytes())
            self.reported = True
        except (EOFError, OSError):
            # It has died, or closed its channel.
            self.process.wait(timeout=_GRACE_SECONDS)
            self.dead = True

    @property
    def pending(self) -> bool:
        return not (self.reported or self.dead)

    def describe_death(self) -> str:
        """How the process ended, in words, with the last line of its stderr."""
        how = describe_end(self.process)
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"rank {self.rank} {how}" + (f" ({lines[-1].strip()[:300]})" if lines else "")

    def kill(self) -> None:
        """End the process if it still runs, reap it, and close its pipes."""
        self.process.kill()
        self.process.wait()
        self.process.close()
        self.channel.close()


def _start(rank: int, size: int, directory: Path, timeout: float, port: int) -> _RankProcess:
    threads = max(1, count_cores() // size)
    ours, theirs = Pipe()
    log = directory / f"stderr-{rank}"
    environment = {
        **os.environ,
        **make_environment(rank, size, port),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    options = {
        "rank": rank,
        "size": size,
        "directory": str(directory),
        "channel": theirs,
        # Longer than the parent waits: the parent, which sees all ranks, reports the failure.
        "timeout": timeout + STARTUP_SECONDS_A_RANK * (size + 1),
    }
    with log.open("wb") as error:
        surroundings = Surroundings(
            environment=environment,
            folder=str(Path.cwd()),
            output=Inherited(2),
            error=Inherited(error.fileno()),
            threads=threads,
        )
        process = ForkedProcess(run_rank, {**options, "surroundings": surroundings})
    theirs.close()
    return _RankProcess(rank=rank, process=process, channel=ours, log=log)


def _end(processes: list[_RankProcess]) -> None:
    """Tell the ranks to end, and wait a moment for each."""
    for one in processes:
        with contextlib.suppress(OSError):  # it is gone already
            one.channel.send_bytes(b"end")
    for one in processes:
        one.process.wait(timeout=_GRACE_SECONDS)


@dataclass(slots=True, kw_only=True)
class _Supervisor:
    """Waits for the ranks' reports, and detects failed and hung ranks."""

    directory: Path
    processes: list[_RankProcess]
    timeout: float
    statuses: tuple[RankStatus, ...] = ()
    changed_at: float = field(default_factory=time.monotonic)

    def wait_for_reports(self) -> None:
        """Return when every rank has reported a result.

        Raises:
            CannotRunError: a rank failed or died, the ranks call different collectives, or no rank made progress.
        """
        secondary_at: float | None = None
        while pending := [one for one in self.processes if one.pending]:
            by_channel = {one.channel: one for one in pending}
            for channel in wait(list(by_channel), timeout=_POLL_SECONDS):
                by_channel[channel].receive()  # type: ignore[index]
            now = time.monotonic()
            causes = [one for one in self.processes if one.dead or (one.failure and not one.failure.secondary)]
            if causes:
                raise self._make_error(causes)
            # A collective breaks off because another rank failed, whose own report is probably on its way.
            effects = [one for one in self.processes if one.failure]
            secondary_at = secondary_at or (now if effects else None)
            if secondary_at and now - secondary_at > _GRACE_SECONDS:
                raise self._make_error(effects)
            self._check_progress(now)
        if any(one.failure for one in self.processes):
            raise self._make_error([one for one in self.processes if one.failure])

    def _check_progress(self, now: float) -> None:
        size = len(self.processes)
        statuses = read_heartbeats(self.directory, size)
        if statuses != self.statuses:
            self.statuses, self.changed_at = statuses, now
            return
        returned = {one.rank for one in self.processes if one.reported and not one.failure}
        if reason := diagnose_stall(statuses, returned):
            raise CannotRunError(reason)
        absent = [rank for rank, status in enumerate(statuses) if not status.left]
        patience = self.timeout + (STARTUP_SECONDS_A_RANK * size if absent else 0)
        if now - self.changed_at <= patience:
            return
        if absent:
            raise CannotRunError(f"{name_ranks(absent)} did not join within {patience:g} s of the others")
        waiting = [rank for rank, status in enumerate(statuses) if status.waits]
        missing = [rank for rank in range(size) if rank not in waiting and rank not in returned]
        late = f"{name_ranks(missing or waiting)} made no progress for {patience:g} s"
        positions = {one.rank: ask_for_stack(one.process.pid, one.log) for one in self.processes if one.rank in missing}
        late += "".join(f"; rank {rank} is in {position}" for rank, position in positions.items() if position)
        calls = {rank: statuses[rank].call for rank in waiting}
        raise CannotRunError(late + (f"; {describe_waits(calls)}" if waiting else ""))

    def _make_error(self, ranks: list[_RankProcess]) -> CannotRunError:
        """The error that names these failed ranks, and the ranks that wait for them."""
        statuses = read_heartbeats(self.directory, len(self.processes))
        failures = [f"rank {one.rank}: {one.failure.message}" if one.failure else one.describe_death() for one in ranks]
        failed = {one.rank for one in ranks}
        waiting = {rank: status.call for rank, status in enumerate(statuses) if status.waits and rank not in failed}
        error = CannotRunError("; ".join(failures) + (f"; {describe_waits(waiting)}" if waiting else ""))
        for one in ranks:
            if one.failure:
                error.add_note(f"On rank {one.rank}:\n{one.failure.trace}")
        return error
