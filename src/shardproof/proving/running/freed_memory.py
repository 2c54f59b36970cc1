"""Memory that a proof has freed, given back to the system.

The C library keeps freed memory for itself, in many pieces: a process that proves one step after the other, as a test
run does, would hold several times what any of its proofs needs.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")  # Linux: sizes of this process, in pages; the second is what is in memory
_MUCH: Final = 1 << 30  # bytes; below, giving back costs more than it is worth


def give_back_freed_memory() -> None:
    """Give freed memory back if this process holds much; no effect where the C library is not glibc."""
    if not _STATM.exists() or int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") < _MUCH:
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
