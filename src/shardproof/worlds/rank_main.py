"""The main function of a spawned rank's process: join, run, report, and wait until the parent ends it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from shardproof.raised import describe_error
from shardproof.worlds.diagnosis import Failure
from shardproof.worlds.fork_server import remove_socket
from shardproof.worlds.gloo import use_loopback
from shardproof.worlds.heartbeats import HeartbeatWriter
from shardproof.worlds.processgroup import ProcessGroupCommunicator, is_effect
from shardproof.worlds.stack_dump import dump_stack_when_signalled
from shardproof.worlds.transport import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection

    from shardproof.worlds.fork_server import Inherited


_inside_rank = False


def inside_rank() -> bool:
    """Whether this process is a rank: a script that spawns a world at its top level would do so in every rank."""
    return _inside_rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a process of a rank has from its parent, which is not the process that it is forked from.

    Attributes:
        environment: the environment variables, with those of `rank_environment`.
        folder: the working directory.
        output: where what is printed goes.
        log: the file that is its stderr.
        threads: how many it computes with.
    """

    environment: Mapping[str, str]
    folder: str
    output: Inherited
    log: str
    threads: int

    def enter(self) -> None:
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        os.dup2(self.output.number, 1)
        os.close(self.output.number)
        with Path(self.log).open("wb") as log:
            os.dup2(log.fileno(), 2)
        torch.set_num_threads(self.threads)


def run_rank(
    *, rank: int, size: int, directory: str, channel: Connection, timeout: float, surroundings: Surroundings
) -> None:
    """Run one rank and report over `channel`. It never returns: the process ends with its parent, or when told to."""
    global _inside_rank  # noqa: PLW0603 - set once in a process
    _inside_rank = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts, and ends this process
    surroundings.enter()
    dump_stack_when_signalled()
    threading.Thread(target=_end_with_parent, args=(channel, directory), daemon=True).start()
    report: bytes
    try:
        result = _join_and_run(Path(directory), rank, size, timeout)
        report = pack((result, None))
    except BaseException as error:  # noqa: BLE001 - also SystemExit: the parent reports whatever ends a rank
        report = pack((None, _explain(error)))
    sys.stdout.flush()
    sys.stderr.flush()
    channel.send_bytes(report)
    # Other ranks may still read from our sockets; the parent ends us when all are done.
    threading.Event().wait()


def _join_and_run(directory: Path, rank: int, size: int, timeout: float) -> Any:
    heartbeats = HeartbeatWriter(directory, rank)
    fn, args = unpack((directory / "work").read_bytes())
    use_loopback()
    store = dist.FileStore(str(directory / "rendezvous"), size)  # type: ignore[attr-defined]  # public, but not listed
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))
    group = dist.group.WORLD
    assert group is not None
    heartbeats.join()
    return fn(ProcessGroupCommunicator(group=group, announce=heartbeats.announce, beat=heartbeats.beat), *args)


def _explain(error: BaseException) -> Failure:
    message = describe_error(error)
    trace = "".join(traceback.format_exception(error, limit=-5))
    return Failure(message=message, trace=trace, secondary=is_effect(error))


def _end_with_parent(channel: Connection, directory: str) -> None:
    """End when the parent says so, or has died: then this process removes the run's directory."""
    try:
        channel.recv_bytes()
    except (EOFError, OSError):
        shutil.rmtree(directory, ignore_errors=True)
        remove_socket()
    os._exit(0)
