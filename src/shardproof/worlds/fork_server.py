"""Processes forked from a server that has imported PyTorch: a rank starts in a fraction of a second, not in seconds.

This is the fork server of `multiprocessing`, but for two things. A process does not run the user's script again: what a
rank needs of a script travels by value (`transport.py`). And the server is ours alone: what a program says of its own
use of `multiprocessing` (start method, preloaded modules, daemons) is neither changed nor asked.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from multiprocessing import forkserver, get_context, parent_process, reduction, spawn, util
from multiprocessing.connection import wait
from multiprocessing.context import set_spawning_popen
from multiprocessing.popen_forkserver import Popen
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# What ranks will import, if this process has: the server imports it once for all of them.
_SHARED: Final = (
    "shardproof.proving.prove",
    "shardproof.parallel",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.parallel",
    "transformers.modeling_utils",
)
_SECONDS = 1.0  # that a killed parent may take to be gone
_servers: dict[int, forkserver.ForkServer] = {}  # by process: a fork of this process needs a server of its own


class ForkedProcess(Popen):
    """A process that calls a function, and ends; it has a pid, a returncode, `wait` and `kill`.

    Its standard input is empty, its environment and its working directory are those of the server's start.
    """

    def __init__(self, target: Callable[..., object], arguments: Mapping[str, Any]) -> None:
        """Start it.

        Args:
            target: a function at the top of a module of this package.
            arguments: its keyword arguments; connections and `Inherited` descriptors among them are handed over.

        Raises:
            OSError, EOFError: the server could not be started, or has died.
        """
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
        self.sentinel, written = _find_server().connect_to_new_process(self._fds)  # type: ignore[attr-defined]
        kept = os.dup(written)  # open as long as this process lives
        self.finalizer = util.Finalize(self, util.close_fds, (kept, self.sentinel))  # type: ignore[attr-defined]
        with open(written, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(buffer.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


@dataclass(frozen=True, slots=True)
class Inherited:
    """A descriptor of this process, as an argument of a `ForkedProcess`, where it is a number of that process."""

    number: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _take_over, (reduction.DupFd(self.number),)


def _take_over(duplicate: Any) -> Inherited:
    return Inherited(duplicate.detach())


def remove_socket() -> None:
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


def _find_server() -> forkserver.ForkServer:
    server = _servers.get(os.getpid())
    if server is None:
        server = _servers[os.getpid()] = forkserver.ForkServer()
        imported = [name for name in _SHARED if name in sys.modules]
        server.set_forkserver_preload(["shardproof.worlds.rank_main", *imported])
    return server
