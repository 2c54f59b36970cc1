"""One rank of a spawned world, in its own process: join, run, report, and wait to be dismissed."""

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

from shardproof.errors import CannotRunError
from shardproof.worlds import spawned
from shardproof.worlds.diagnosis import Failure
from shardproof.worlds.gloo import use_loopback
from shardproof.worlds.heartbeats import BoardWriter
from shardproof.worlds.processgroup import CollectiveFailedError, ProcessGroupCommunicator
from shardproof.worlds.stack_dump import answer_when_asked
from shardproof.worlds.transport import pack, unpack


def run_rank(*, rank: int, size: int, directory: str, channel: int, timeout: float, threads: int) -> None:
    """Run one rank and report over `channel`; return never, but end when the parent says so or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle: it ends us
    answer_when_asked()
    threading.Thread(target=_end_with_parent, args=(directory,), daemon=True).start()
    torch.set_num_threads(threads)
    spawned.forbid_spawning()
    report: bytes
    try:
        result = _join_and_run(Path(directory), rank, size, timeout)
        report = pack((result, None))
    except BaseException as error:  # noqa: BLE001 - also SystemExit: whatever ends a rank is the parent's to tell
        report = pack((None, _explain(error)))
    sys.stdout.flush()
    sys.stderr.flush()
    with Connection(channel, readable=False) as connection:
        connection.send_bytes(report)
    # The others may still read from our sockets. The parent dismisses us when all are done.
    threading.Event().wait()


def _join_and_run(directory: Path, rank: int, size: int, timeout: float) -> Any:
    board = BoardWriter(directory, rank)
    fn, args = unpack((directory / "work").read_bytes())
    use_loopback()
    store = dist.FileStore(str(directory / "rendezvous"), size)  # type: ignore[attr-defined]  # public, but not listed
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))
    group = dist.group.WORLD
    assert group is not None
    board.join()
    return fn(ProcessGroupCommunicator(group=group, announce=board.announce, beat=board.beat), *args)


def _explain(error: BaseException) -> Failure:
    known = isinstance(error, CannotRunError)
    message = str(error) if known else f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error, limit=-5))
    return Failure(message=message, trace=trace, follows=isinstance(error, CollectiveFailedError))


def _end_with_parent(directory: str) -> None:
    """End when the parent dismisses us with a word, or is gone without one: then its directory is ours to remove."""
    # By descriptor, not sys.stdin.buffer: its lock would be held here while another thread flushes at exit.
    if not os.read(0, 1):
        shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)
