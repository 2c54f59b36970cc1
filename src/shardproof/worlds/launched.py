"""The launched world: this process is one rank, started by torchrun or anything that sets the same environment.

Every rank runs the same program; rank 0 gets the results and prints. A rank that fails writes its error into the
rendezvous store before it ends, so that rank 0 can report it when its own collective breaks off.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from shardproof.errors import CannotRunError
from shardproof.raised import describe_error
from shardproof.tensorfiles import first_line
from shardproof.worlds.failure_store import (
    TerminatedError,
    collect_failures,
    raise_when_terminated,
    store_call,
    store_error,
)
from shardproof.worlds.gloo import use_loopback
from shardproof.worlds.processgroup import CollectiveFailedError, ProcessGroupCommunicator
from shardproof.worlds.transport import pack, unpack
from shardproof.worlds.world import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._C._distributed_c10d import Store

    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.world import R, Ts

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def is_launched() -> bool:
    """Whether the environment is that of a rank started by torchrun or a similar launcher."""
    return all(name in os.environ for name in _NEEDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchedWorld:
    """The world of the processes that torchrun started; see `World`.

    `run` returns the results on rank 0 and the empty list elsewhere. A collective, and joining, may take `timeout`
    seconds. Where another rank fails, rank 0 raises `CannotRunError`, and so does the failing rank, with its own error;
    the others raise `SystemExit(2)` and print nothing.
    """

    timeout: float = DEFAULT_TIMEOUT

    def __post_init__(self) -> None:
        if missing := [name for name in _NEEDED if name not in os.environ]:
            raise CannotRunError(
                f"this process was not launched: {', '.join(missing)} not set in the environment; start it with "
                "torchrun --nproc-per-node N -m shardproof ..., or spawn the ranks here"
            )
        if not self.timeout > 0:
            raise CannotRunError(f"a timeout of {self.timeout} s was asked for; give a positive number of seconds")

    @property
    def rank(self) -> int:
        """This process's rank."""
        return int(os.environ["RANK"])

    @property
    def size(self) -> int:
        return int(os.environ["WORLD_SIZE"])

    @property
    def speaks(self) -> bool:
        return self.rank == 0

    def run(self, fn: Callable[[Communicator, *Ts], R], *args: *Ts) -> list[R]:
        if dist.is_initialized():
            raise CannotRunError("torch.distributed is initialized already: use ProcessGroupCommunicator on its group")
        store = self._join()
        try:
            with raise_when_terminated() if self.speaks else nullcontext():
                return self._run_and_gather(store, fn, *args)
        except TerminatedError as error:
            failures = collect_failures(store, self.size, call=None)
            raise CannotRunError(f"{failures}; the launcher ended rank 0") from error
        finally:
            dist.destroy_process_group()

    def _join(self) -> Store:
        """Rendezvous with the other ranks at the address that the launcher gave."""
        store = open_store(self.timeout)
        init_launched_group(store, self.timeout)
        return store

    def _run_and_gather(self, store: Store, fn: Callable[[Communicator, *Ts], R], *args: *Ts) -> list[R]:
        group = dist.group.WORLD
        assert group is not None
        try:
            result = fn(ProcessGroupCommunicator(group=group), *args)
            packed: list[bytes] | None = [b""] * self.size if self.speaks else None
            try:
                dist.gather_object(pack(result), packed, dst=0, group=group)
            except RuntimeError as error:
                raise CollectiveFailedError("the gathering of results", error) from error
        except CollectiveFailedError as error:
            if not self.speaks:
                store_call(store, self.rank, error.call)
                raise SystemExit(2) from error
            raise CannotRunError(f"{collect_failures(store, self.size, error.call)}; rank 0 was in {error}") from error
        except Exception as error:
            message = f"rank {self.rank}: {describe_error(error)}"
            store_error(store, self.rank, message)
            raise CannotRunError(message) from error
        return [unpack(one) for one in packed] if packed is not None else []


def open_store(timeout: float) -> Store:
    """The rendezvous store at the address that the launcher gave.

    Raises:
        CannotRunError: whoever holds it did not answer within `timeout` seconds.
    """
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout)))
    except (RuntimeError, ValueError) as error:
        _raise_not_joined(timeout, error)
    opened: Store = store
    return opened


def init_launched_group(store: Store, timeout: float) -> dist.ProcessGroup:
    """Make the default process group of the launched ranks.

    Args:
        store: where they meet; each time another one, or another prefix in it.
        timeout: seconds for this, and for each collective later.

    Raises:
        CannotRunError: they did not meet.
    """
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        use_loopback()
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout))
    except (RuntimeError, ValueError) as error:
        _raise_not_joined(timeout, error)
    group = dist.group.WORLD
    assert group is not None
    return group


def _raise_not_joined(timeout: float, error: Exception) -> NoReturn:
    rank, others = os.environ["RANK"], int(os.environ["WORLD_SIZE"]) - 1
    raise CannotRunError(
        f"rank {rank} could not join the other {others} within {timeout:g} s: {first_line(error)}"
    ) from error
