"""Freed memory: used again while a proof runs, and given back to the system after it.

A proof takes the memory of a run, frees it and takes the same again, many times, in threads that come and go. The C
library would give large pieces back to the system each time, which then has to clear them again. And it would keep
the memory that each thread has freed for that thread alone.
"""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_STATM: Final = Path("/proc/self/statm")  # Linux: sizes of this process, in pages; the second is what is in memory
_MUCH: Final = 1 << 30  # bytes; below, giving back costs more than it is worth
# Of glibc's malloc.h, the options of mallopt: from which size on freed memory is given back, and how many threads may
# have memory of their own.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_REUSED: Final = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_THRESHOLD: 2**31 - 1, _ARENA_MAX: 1}
# What glibc arrives at by itself once a program has freed large pieces.
_USUAL: Final = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20, _ARENA_MAX: 0}


@contextmanager
def freed_memory_reused() -> Iterator[None]:
    """Inside, freed memory is used again; after it, it is given back if this process holds much.

    No effect where the C library is not glibc, or the user has set how it is to allocate.
    """
    _set(_REUSED)
    try:
        yield
    finally:
        _set(_USUAL)
        _give_back()


def free_cycles() -> None:
    """Free what only holds itself, as a trial's arithmetic and modes do, if this process holds much."""
    if _holds_much():
        gc.collect()


def _set(options: dict[int, int]) -> None:
    own = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    mallopt = None if own else _find("mallopt")
    if mallopt is not None:
        for option, value in options.items():
            mallopt(option, value)


def _give_back() -> None:
    trim = _find("malloc_trim") if _holds_much() else None
    if trim is not None:
        trim(0)


def _holds_much() -> bool:
    return _STATM.exists() and int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >= _MUCH


def _find(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where it is not glibc."""
    library = ctypes.CDLL(None)
    return getattr(library, name, None) if hasattr(library, "gnu_get_libc_version") else None
