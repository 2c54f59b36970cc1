"""Processes forked from a server that has imported PyTorch: a rank starts in a fraction of a second, not in seconds.

This is the fork server of `multiprocessing`, but for two things. A process does not run the user's script again: what a
rank needs of a script travels by value (`transport.py`). And the server is ours alone: what a program says of its own
use of `multiprocessing` (start method, preloaded modules, daemons) is neither changed nor asked.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing import forkserver, get_context, parent_process, reduction, spawn, util
from multiprocessing.connection import wait
from multiprocessing.context import set_spawning_popen
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from shardproof.errors import CannotRunError

try:
    from multiprocessing.popen_forkserver import Popen
except ImportError:  # Windows cannot fork
    Popen = object  # type: ignore[assignment, misc]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from multiprocessing.connection import Connection

# What ranks will import, if this process has: the server imports it once for all of them. Nothing of the user's.
_SHARED: Final = frozenset(
    {
        "torch._dynamo",
        "torch.distributed.fsdp",
        "torch.distributed.pipelining",
        "torch.distributed.tensor.parallel",
        "transformers.modeling_utils",
    }
)
_SHARED_PACKAGES: Final = tuple(f"{name}." for name in ("shardproof", "transformers.models"))
_LONGEST = 60  # characters of the folder for temporary files, so that the name of a socket in it is not too long
_SECONDS = 1.0  # that a killed process may take to be gone
_forked = False  # whether this process is a `ForkedProcess`
_servers: dict[int, forkserver.ForkServer] = {}  # by process: a fork of this process needs a server of its own


class ForkedProcess(Popen):
    """A process that calls a function, and ends; it has a pid, a returncode, `wait` and `kill`.

    Its standard input is empty; what else it has from its parent, it is given as `Surroundings`.
    """

    def __init__(self, target: Callable[..., object], arguments: Mapping[str, Any]) -> None:
        """Start it.

        Args:
            target: a function at the top of a module of this package.
            arguments: its keyword arguments; connections and `Inherited` descriptors among them are handed over.

        Raises:
            CannotRunError: this system cannot fork, or this process is forked itself: a script that starts processes
                at its top level would do so in each of them.
            OSError, EOFError: the server cannot be started, or dies again and again.
        """
        if _forked:
            raise CannotRunError(
                "a rank, or a process for trials, tried to start processes of its own: where a script starts them, "
                'put that below `if __name__ == "__main__":`'
            )
        if not hasattr(os, "fork"):
            raise CannotRunError("processes cannot be forked on this system: leave out spawn and jobs")
        process = get_context("forkserver").Process(target=target, kwargs=arguments)
        process.daemon = False  # a rank may have children: workers that load data
        super().__init__(process)

    def _launch(self, process_obj: Any) -> None:
        prepared = spawn.get_preparation_data(process_obj.name)
        for of_main in ("init_main_from_name", "init_main_from_path"):
            prepared.pop(of_main, None)
        buffer = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(prepared, buffer)
            reduction.dump(process_obj, buffer)
        finally:
            set_spawning_popen(None)
        try:
            self._fork(buffer)
        except (EOFError, OSError):  # the server was killed since the last time
            time.sleep(_SECONDS)
            self._fork(buffer)

    def _fork(self, given: io.BytesIO) -> None:
        self.sentinel, written = start_server().connect_to_new_process(self._fds)  # type: ignore[attr-defined]
        kept = os.dup(written)  # open as long as this process lives
        self.finalizer = util.Finalize(self, util.close_fds, (kept, self.sentinel))  # type: ignore[attr-defined]
        with open(written, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(given.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


@dataclass(frozen=True, slots=True)
class Inherited:
    """A descriptor of this process, as an argument of a `ForkedProcess`, where it is a number of that process."""

    number: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _take_over, (reduction.DupFd(self.number),)


def _take_over(duplicate: Any) -> Inherited:
    return Inherited(duplicate.detach())


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a forked process has from its parent, which is not the process that it is forked from.

    Attributes:
        environment: the environment variables.
        folder: the working directory.
        output, error: where its standard output and its standard error go.
        threads: how many it computes with.
    """

    environment: Mapping[str, str]
    folder: str
    output: Inherited
    error: Inherited
    threads: int

    def enter(self) -> None:
        """Have them from here on; an interrupt is left to the parent, which ends this process."""
        global _forked  # noqa: PLW0603 - set once in a process
        _forked = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        for given, number in ((self.output.number, 1), (self.error.number, 2)):
            os.dup2(given, number)
            os.close(given)
        torch.set_num_threads(self.threads)


def end_with_parent(channel: Connection, clear: Callable[[], object]) -> None:
    """From here on: end this process when the parent sends something over the channel, or has died.

    Args:
        channel: to the parent.
        clear: is called where the parent has died, which would have cleared away what it made for this process.
    """

    def wait_for_end() -> None:
        try:
            channel.recv_bytes()
        except (EOFError, OSError):
            clear()
            _remove_socket()
        os._exit(0)

    threading.Thread(target=wait_for_end, daemon=True).start()


def describe_end(process: ForkedProcess) -> str:
    """How a process ended, or closed its channel, before it had a result; in words."""
    code = process.returncode
    if code is None:
        return "closed its channel without a report"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code} before it had a result"


def count_cores() -> int:
    """Of those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_server() -> forkserver.ForkServer:
    """The server, started if it does not run yet; what it imports takes a while, in which this process goes on."""
    server = _servers.get(os.getpid())
    if server is None:
        server = _servers[os.getpid()] = forkserver.ForkServer()
        # On macOS a fork of a process that has loaded Apple's frameworks may crash: there each process imports them.
        imported = [name for name in sys.modules if name in _SHARED or name.startswith(_SHARED_PACKAGES)]
        server.set_forkserver_preload(["shardproof.worlds.rank_main", *imported] if sys.platform == "linux" else [])
    with _short_folder():
        server.ensure_running()
    return server


@contextlib.contextmanager
def _short_folder() -> Iterator[None]:
    """Inside, the folder for temporary files is one in which a socket's name is not too long for the system."""
    before = tempfile.tempdir
    if len(tempfile.gettempdir()) > _LONGEST:
        tempfile.tempdir = "/tmp"  # noqa: S108 - `multiprocessing` makes a folder of its own in it
    try:
        yield
    finally:
        tempfile.tempdir = before


def _remove_socket() -> None:
    """In a forked process whose parent was killed: remove the server's socket, and its folder if nothing else is there.

    Nothing is removed while the parent lives.
    """
    parent = parent_process()
    if parent is None or wait([parent.sentinel], timeout=_SECONDS) == []:
        return
    socket = Path(forkserver._forkserver._forkserver_address)  # type: ignore[attr-defined]  # noqa: SLF001
    socket.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        socket.parent.rmdir()
