"""Turns of ranks that are threads: one runs at a time, in rank order, until it has to wait.

So there are no data races, every run has the same order, and a deadlock is detected at once. With the turn, the
states of the random generators and the Python globals become those of the rank that runs.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.raised import describe_error
from shardproof.worlds.diagnosis import describe_deadlock
from shardproof.worlds.randomness import Randomness
from shardproof.worlds.rank_globals import RankGlobals

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    rank: int
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wait:
    """For what a rank waits, in words, and whether it has happened."""

    call: str
    done: Callable[[], bool]


@dataclass(slots=True, kw_only=True)
class Turns:
    """Which rank runs, and what each of the others waits for."""

    size: int
    changed: threading.Condition = field(default_factory=threading.Condition)
    current: int = 0
    begun: int = 0
    turns: int = 0
    waiting: dict[int, _Wait] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    failures: list[_Failure] = field(default_factory=list)
    over: bool = False
    rank_globals: RankGlobals = field(default_factory=RankGlobals)
    _running: int | None = None
    _initial: Randomness = field(default_factory=Randomness.now)  # every rank starts with it
    _randomness: dict[int, Randomness] = field(default_factory=dict)

    def begin(self, rank: int) -> None:
        """Wait for the first turn, which begins when every thread has started: from then on one runs at a time."""
        with self.changed:
            self.begun += 1
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.over or (self.begun == self.size and self.current == rank))
        self._leave_if_over()
        self._set_state_of(rank)

    def wait_until(self, rank: int, done: Callable[[], bool], call: str) -> None:
        """Let the other ranks run until `done`; `call` is what the rank waits in, in words."""
        if not done():
            self._wait(rank, _Wait(call=call, done=done))
        self._leave_if_over()

    def give_way(self, rank: int, call: str) -> None:
        """Let the other ranks run once: the rank asks again and again whether `call` is done."""
        self._wait(rank, _Wait(call=call, done=lambda: True))

    def _wait(self, rank: int, wait: _Wait) -> None:
        with self.changed:
            self.waiting[rank] = wait
            self._pass_on(rank)
            self.changed.wait_for(lambda: self.over or self.current == rank)
            self.waiting.pop(rank, None)
        self._leave_if_over()
        self._set_state_of(rank)

    def end(self, rank: int, error: BaseException | None) -> None:
        """The rank has ended; an error ends the others too."""
        with self.changed:
            self.ended.add(rank)
            if error is not None and not isinstance(error, RunIsOverError):
                self.failures.append(_Failure(rank=rank, error=error))
                self.over = True
            if not self.over:
                self._pass_on(rank)
            self.changed.notify_all()

    def watch(self, threads: list[threading.Thread], timeout: float) -> None:
        """Wait for every rank to end; give up when no turn has ended for `timeout` seconds."""
        with self.changed:
            while len(self.ended) < self.size:
                before = self.turns

                def moved(before: int = before) -> bool:
                    return len(self.ended) == self.size or self.turns != before

                if not self.changed.wait_for(moved, timeout):
                    stuck = self.current
                    error = CannotRunError(f"has not come to its next collective for {timeout:g} s{self._list_waits()}")
                    self.failures.append(_Failure(rank=stuck, error=error))
                    self.over = True
                    self.changed.notify_all()
                    return
        for thread in threads:
            thread.join()

    def leave_process_as_it_was(self) -> None:
        """Give the process its own Python globals again."""
        try:
            self.rank_globals.switch_to(None)
        except CannotRunError as error:
            self.failures.append(_Failure(rank=self.rank_globals.current or 0, error=error))
            self.rank_globals.switch_to(None)

    def report(self) -> None:
        """Raise the first rank's failure, if there is one."""
        if self.failures:
            failure = self.failures[0]
            raise CannotRunError(f"rank {failure.rank}: {describe_error(failure.error)}") from failure.error

    def _set_state_of(self, rank: int) -> None:
        """Give the process the rank's random generators and Python globals."""
        if self._running == rank:
            return
        if self._running is not None:
            self._randomness[self._running] = Randomness.now()
        self.rank_globals.switch_to(rank)
        self._randomness.get(rank, self._initial).restore()
        self._running = rank

    def _pass_on(self, rank: int) -> None:
        self.turns += 1
        for step in range(1, self.size + 1):
            other = (rank + step) % self.size
            wait = self.waiting.get(other)
            if other not in self.ended and (wait is None or wait.done()):
                self.current = other
                self.changed.notify_all()
                return
        if len(self.ended) < self.size:
            waits = {other: wait.call for other, wait in self.waiting.items()}
            error = CannotRunError(describe_deadlock(waits, self.ended))
            self.failures.append(_Failure(rank=min(self.waiting), error=error))
            self.over = True
            self.changed.notify_all()

    def _list_waits(self) -> str:
        return "".join(f"; rank {rank} waits in {wait.call}" for rank, wait in sorted(self.waiting.items()))

    def _leave_if_over(self) -> None:
        if self.over:
            raise RunIsOverError


class RunIsOverError(BaseException):
    """Raised in every other rank when one fails; no handler of ordinary errors catches it."""
