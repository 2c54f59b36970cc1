"""The steps of bench_parallel.py in time of the CPU, user and system, of the slower rank's process.

Other work on the machine changes it little. Waiting for the other rank is not in it, as gloo sleeps while it waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench_parallel import time_steps

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.measure import Row


def rows() -> Iterable[Row]:
    """Four rows for each size and split."""
    return time_steps(of_cpu=True)
