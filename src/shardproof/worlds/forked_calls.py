"""Calls of one function in forked processes, side by side, each with arguments of its own."""

from __future__ import annotations

import os
import traceback
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from shardproof.errors import CannotRunError
from shardproof.raised import describe_error
from shardproof.worlds.fork_server import (
    ForkedProcess,
    Inherited,
    Surroundings,
    count_cores,
    describe_end,
    end_with_parent,
)
from shardproof.worlds.transport import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

T = TypeVar("T")


def call_side_by_side(fn: Callable[..., T], calls: Sequence[tuple[Any, ...]], *, purpose: str) -> list[T]:
    """What `fn` returns for each tuple of arguments, as copies, in their order. A process for each.

    Args:
        fn: and all arguments can be sent to another process (`transport.pack`).
        calls: the arguments of each call.
        purpose: of the processes, in words, for errors: 'trials'.

    Raises:
        CannotRunError: something cannot be sent; a call raised an error, or its process died. No process is left.
    """
    works = [pack((fn, arguments)) for arguments in calls]
    threads = max(1, min(torch.get_num_threads(), count_cores() // len(calls)))
    processes: list[ForkedProcess] = []
    channels: list[Connection] = []
    results: dict[int, T] = {}
    try:
        for work in works:
            ours, theirs = Pipe()
            channels.append(ours)
            surroundings = Surroundings(
                environment=dict(os.environ),
                folder=str(Path.cwd()),
                output=Inherited(1),
                error=Inherited(2),
                threads=threads,
            )
            processes.append(ForkedProcess(_run_call, {"channel": theirs, "work": work, "surroundings": surroundings}))
            theirs.close()
        while pending := {channel: number for number, channel in enumerate(channels) if number not in results}:
            for channel in wait(list(pending)):
                number = pending[channel]  # type: ignore[index]
                results[number] = _receive(channel, processes[number], purpose)  # type: ignore[arg-type]
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.close()
        for channel in channels:
            channel.close()
    return [results[number] for number in range(len(calls))]


def _receive(channel: Connection, process: ForkedProcess, purpose: str) -> Any:
    try:
        result, message, trace = unpack(channel.recv_bytes())
    except (EOFError, OSError):
        process.wait()
        raise CannotRunError(
            f"a process for {purpose} {describe_end(process)}: it may have had too little memory, as each process "
            "needs what one proof needs; give fewer jobs"
        ) from None
    if message is None:
        return result
    error = CannotRunError(message)
    error.add_note(f"In a process for {purpose}:\n{trace}")
    raise error


def _run_call(*, channel: Connection, work: bytes, surroundings: Surroundings) -> None:
    """In the process."""
    surroundings.enter()
    end_with_parent(channel, lambda: None)
    try:
        fn, arguments = unpack(work)
        report = pack((fn(*arguments), None, ""))
    except Exception as error:  # noqa: BLE001 - the parent reports whatever a call raises
        message = str(error) if isinstance(error, CannotRunError) else describe_error(error)
        report = pack((None, message, "".join(traceback.format_exception(error, limit=-5))))
    channel.send_bytes(report)
