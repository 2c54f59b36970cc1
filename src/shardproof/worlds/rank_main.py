"""The main function of a spawned rank's process: join, run, report, and wait until the parent ends it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import traceback
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from shardproof.raised import describe_error
from shardproof.worlds import spawned
from shardproof.worlds.diagnosis import Failure
from shardproof.worlds.gloo import use_loopback
from shardproof.worlds.heartbeats import HeartbeatWriter
from shardproof.worlds.processgroup import ProcessGroupCommunicator, is_effect
from shardproof.worlds.stack_dump import dump_stack_when_signalled
from shardproof.worlds.transport import pack, unpack


def run_rank(*, rank: int, size: int, directory: str, channel: int, timeout: float, threads: int) -> None:
    """Run one rank and report over `channel`. It never returns: the process ends with its parent, or when told to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts, and ends this process
    dump_stack_when_signalled()
    threading.Thread(target=_end_with_parent, args=(directory,), daemon=True).start()
    torch.set_num_threads(threads)
    spawned.forbid_spawning()
    report: bytes
    try:
        result = _join_and_run(Path(directory), rank, size, timeout)
        report = pack((result, None))
    except BaseException as error:  # noqa: BLE001 - also SystemExit: the parent reports whatever ends a rank
        report = pack((None, _explain(error)))
    sys.stdout.flush()
    sys.stderr.flush()
    with Connection(channel, readable=False) as connection:
        connection.send_bytes(report)
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


def _end_with_parent(directory: str) -> None:
    """End when the parent writes a byte, or has died: then this process removes the run's directory."""
    # By descriptor, not sys.stdin.buffer: its lock would be held here while another thread flushes at exit.
    if not os.read(0, 1):
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)
