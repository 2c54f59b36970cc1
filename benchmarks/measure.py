"""Timing for a noisy machine, and the row that a benchmark yields."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        what: is measured.
        ours: our value, in `unit`.
        peer_name: what ours is compared with: another implementation, or a floor.
        peer: its value, in `unit`.
        target: the largest ratio that meets the target; the smallest, if `at_least`.
        spread: the distance between the quartiles of `ours`, relative to it; None for one measurement.
    """

    what: str
    ours: float
    peer_name: str
    peer: float
    unit: str
    target: float
    at_least: bool = False
    spread: float | None = None

    @property
    def ratio(self) -> float:
        """Ours over the peer's, or the other way round where the target is a speed-up."""
        return self.peer / self.ours if self.at_least else self.ours / self.peer

    @property
    def met(self) -> bool:
        """Whether the ratio is within its target."""
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The times of one variant: the median in milliseconds, and the relative distance between quartiles."""

    median: float
    spread: float


def interleave(
    variants: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    before: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time each variant once a round, after one round that does not count; `before` each, untimed, say a barrier.

    `clock` is in seconds: of the wall, or `time.process_time`, of the CPU, where other work shares the machine.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            before()
            start = clock()
            run()
            if turn:
                times[name].append((clock() - start) * 1e3)
    return {name: _summarize(values) for name, values in times.items()}


def _summarize(values: list[float]) -> Timing:
    median = statistics.median(values)
    if len(values) < 2:
        return Timing(median=median, spread=0.0)
    low, _, high = statistics.quantiles(values, n=4)
    return Timing(median=median, spread=(high - low) / median)


def peak_extra_mib(prepare: str, run: str) -> float:
    """The rise of a new Python process's peak memory while it runs `run`, after `prepare`; Linux only.

    It reads VmHWM, because a process inherits ru_maxrss from the one that started it.
    """
    code = f"""
def read_kib(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
{prepare}
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = read_kib("VmRSS")
{run}
print((read_kib("VmHWM") - before) / 1024)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own code
    return float(done.stdout.split()[-1])
