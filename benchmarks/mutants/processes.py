"""Real ranks: forked processes that meet over gloo, so that a closure need not be pickled and nothing is shared."""

from __future__ import annotations

import os
import signal
import tempfile
import time
import traceback
import warnings
from contextlib import suppress
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


class RankFailedError(RuntimeError):
    """A rank raised, or was killed for taking too long."""


def run_in_processes(size: int, fn: Callable[[int], Result], *, timeout: float = 60.0) -> list[Result]:
    """What `fn(rank)` returns on each of `size` ranks: tensors, numbers, and lists and dicts of them.

    Raises:
        RankFailedError: one of them raised, or all of them together took longer than `timeout` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranks = [_fork(rank, size, fn, Path(folder)) for rank in range(size)]
        deadline = time.monotonic() + timeout
        try:
            failed = [f"rank {rank}" for rank, pid in enumerate(ranks) if not _ends_well(pid, deadline)]
        finally:
            for pid in ranks:  # each is a child of ours that may already be gone
                with suppress(ProcessLookupError, ChildProcessError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
        if failed:
            first = sorted(Path(folder).glob("error*"), key=lambda path: path.stat().st_mtime_ns)
            told = [f"{path.name.removeprefix('error')}: {path.read_text()}" for path in first]
            raise RankFailedError(
                f"{', '.join(failed)} failed; {f'rank {told[0]}' if told else f'no end after {timeout:.0f} s'}"
            )
        return [torch.load(Path(folder) / f"result{rank}", weights_only=True) for rank in range(size)]


def _fork(rank: int, size: int, fn: Callable[[int], Any], folder: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of simulated ranks have ended by now
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        store = dist.FileStore(str(folder / "store"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
        result = BytesIO()
        torch.save(fn(rank), result)
        (folder / f"result{rank}").write_bytes(result.getvalue())
        dist.barrier()
        code = 0
    except BaseException as error:  # noqa: BLE001 - whatever ends a rank is told by the parent
        (folder / f"error{rank}").write_text(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    finally:
        os._exit(code)


def _ends_well(pid: int, deadline: float) -> bool:
    """Whether the process ends with exit code 0 before the deadline."""
    pause = 0.001
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status == 0
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
