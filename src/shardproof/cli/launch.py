"""Commands that torchrun started: how many processes there are, and which of them speaks."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

from shardproof.cli.output import Exit
from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shardproof.worlds.launched_runs import LaunchedRuns

P = ParamSpec("P")
_runs: ContextVar[LaunchedRuns | None] = ContextVar("runs", default=None)
_PRINTING_SECONDS = 10.0


def count_launched() -> int | None:
    """Count the processes that torchrun has started; None where torchrun did not start this one."""
    if "WORLD_SIZE" not in os.environ:
        return None
    from shardproof.worlds.launched import LaunchedWorld, is_launched

    return LaunchedWorld().size if is_launched() else None


@contextmanager
def rank_zero_speaks(launched: int | None) -> Iterator[None]:
    """Inside, an error that all launched ranks have is raised on rank 0; the others exit silently.

    They wait first: torchrun ends all processes as soon as one exits, and rank 0 must have printed by then.
    """
    try:
        yield
    except CannotRunError as error:
        if launched is None or os.environ["RANK"] == "0":
            raise
        time.sleep(_PRINTING_SECONDS)
        raise SystemExit(Exit.COULD_NOT_RUN) from error


def led_by_rank_zero(command: Callable[P, int]) -> Callable[P, int]:
    """A command that rank 0 of launched processes runs alone; the others take part in its runs and share its exit code.

    The command finds the runs by `current_runs`. It has an argument `timeout`, in seconds.
    """

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        if (count_launched() or 1) == 1:
            return command(*args, **kwargs)
        from shardproof.worlds.launched_runs import launched_runs

        timeout = kwargs["timeout"]
        assert isinstance(timeout, float)
        with launched_runs(timeout) as runs:
            if not runs.speaks:
                return int(runs.follow())
            token = _runs.set(runs)
            try:
                code = command(*args, **kwargs)
            finally:
                _runs.reset(token)
            runs.publish(int(code))
        return code

    return run


def current_runs() -> LaunchedRuns | None:
    """The runs of the launched processes, in a command that rank 0 leads."""
    return _runs.get()
