"""The main function of a spawned rank's process: join, run, report, and wait until the parent ends it."""

from __future__ import annotations

import shutil
import sys
import threading
import traceback
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from shardproof.raised import describe_error
from shardproof.worlds.diagnosis import Failure
from shardproof.worlds.fork_server import end_with_parent
from shardproof.worlds.gloo import use_loopback
from shardproof.worlds.heartbeats import HeartbeatWriter
from shardproof.worlds.processgroup import ProcessGroupCommunicator, is_effect
from shardproof.worlds.stack_dump import dump_stack_when_signalled
from shardproof.worlds.transport import pack, unpack

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from shardproof.worlds.fork_server import Surroundings


def run_rank(
    *, rank: int, size: int, directory: str, channel: Connection, timeout: float, surroundings: Surroundings
) -> None:
    """Run one rank and report over `channel`. It never returns: the process ends with its parent, or when told to."""
    surroundings.enter()
    dump_stack_when_signalled()
    end_with_parent(channel, lambda: shutil.rmtree(directory, ignore_errors=True))
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
