"""The compiled kernel: `kernel.cpp`, built once a process with the machine's C++ compiler, and called through ctypes.

It is plain C++ and not torch.compile: it builds in half a second instead of ten, is vectorized throughout, and needs
neither torch._dynamo nor PyTorch's headers. Each process builds it again: a cache of native code would have to be
protected from other users and other processors.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from shardproof.comparison.blocks import Block, BlockReader
from shardproof.comparison.elementwise import BlockStatistics
from shardproof.comparison.formats import FLOAT_FORMATS

if TYPE_CHECKING:
    from shardproof.comparison.blocks import Blocks
    from shardproof.comparison.elementwise import Tolerance
    from shardproof.comparison.tally import Tally

_FUNCTIONS = {
    torch.float32: "compare_float32",
    torch.float64: "compare_float64",
    torch.bfloat16: "compare_bfloat16",
}
# Contraction would round a * b + c once where PyTorch rounds twice.
_PLAIN_FLAGS = ("-O3", "-ffp-contract=off", "-shared", "-fPIC", "-std=c++17")
# With OpenMP the threads are PyTorch's own, whose runtime is loaded already. Other threads would compete with those,
# which spin for some milliseconds after each of PyTorch's operations.
_FLAGS = (*_PLAIN_FLAGS, "-march=native", "-mprefer-vector-width=512", "-fopenmp")
_RANGE_ELEMENTS = 1 << 21


class _Statistics(ctypes.Structure):
    """Mirrors `Statistics` in kernel.cpp."""

    _fields_ = (
        ("worst", ctypes.c_int64),
        ("maxdiff", ctypes.c_double),
        ("max_ulp", ctypes.c_uint64),
        ("close", ctypes.c_int64),
        ("nan_actual", ctypes.c_int64),
        ("nan_expected", ctypes.c_int64),
        ("inf_actual", ctypes.c_int64),
        ("inf_expected", ctypes.c_int64),
    )


def stream_compiled(reader: Blocks, tolerance: Tolerance, tally: Tally) -> bool:
    """Add every block of the reader to the tally; return False, and add nothing, where the kernel does not apply.

    It applies to float32, float64 and bfloat16 on the CPU, contiguous in memory or read from files, and needs a
    compiler; without one it warns.
    """
    memory = reader if isinstance(reader, BlockReader) else None
    copies = memory is not None and memory.buffers is not None
    if copies or reader.dtype not in _FUNCTIONS or reader.device.type != "cpu":
        return False
    library = _build()
    if library is None:
        return False
    if memory is not None:
        _take(library, memory.actual, memory.expected, None, tolerance, tally)
    else:
        for block in reader.blocks():
            _take(library, *reader.read(block), block, tolerance, tally)
    return True


def _take(
    library: ctypes.CDLL,
    actual: torch.Tensor,
    expected: torch.Tensor,
    block: Block | None,
    tolerance: Tolerance,
    tally: Tally,
) -> None:
    """Add two contiguous [n] tensors to the tally: a block, or all elements where that is None."""
    count = actual.numel()
    outs = (_Statistics * -(-count // _RANGE_ELEMENTS))()
    library[_FUNCTIONS[actual.dtype]](
        ctypes.c_void_p(actual.data_ptr()),
        ctypes.c_void_p(expected.data_ptr()),
        ctypes.c_int64(count),
        ctypes.c_int64(_RANGE_ELEMENTS),
        ctypes.c_int(torch.get_num_threads()),
        ctypes.c_double(tolerance.rtol),
        ctypes.c_double(tolerance.atol),
        ctypes.c_int(tolerance.equal_nan),
        ctypes.c_uint64(FLOAT_FORMATS[actual.dtype].few_ulp(tolerance.rtol, tolerance.atol)),
        outs,
    )
    for out in outs:
        _add(out, block, tally)


def _add(out: _Statistics, block: Block | None, tally: Tally) -> None:
    statistics = BlockStatistics(
        close=bool(out.close),
        maxdiff=out.maxdiff,
        max_ulp=out.max_ulp,
        nan_actual=out.nan_actual,
        nan_expected=out.nan_expected,
        inf_actual=out.inf_actual,
        inf_expected=out.inf_expected,
    )
    tally.add(statistics, block or Block(start=out.worst, index=(slice(out.worst, out.worst + 1),)))


@functools.cache
def _build() -> ctypes.CDLL | None:
    """Build and load the kernel; None and a warning where there is no compiler, or it fails."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        _warn("there is no C++ compiler (c++, g++ or clang++) on the PATH; install one")
        return None
    source = Path(__file__).with_name("kernel.cpp")
    with tempfile.TemporaryDirectory(prefix="shardproof-") as folder:
        library = Path(folder) / "kernel.so"
        for flags in (_FLAGS, _PLAIN_FLAGS):
            run = subprocess.run(  # noqa: S603 - the compiler the user has, our own source, no shell
                [compiler, *flags, "-o", str(library), str(source)], capture_output=True, text=True, check=False
            )
            if run.returncode == 0:
                with contextlib.suppress(OSError):  # an OpenMP runtime that cannot be loaded
                    return ctypes.CDLL(str(library))
    _warn(f"{compiler} failed: {run.stderr.strip().splitlines()[-1:] or run.returncode}")
    return None


def _warn(why: str) -> None:
    warnings.warn(
        f"kernel='compiled': {why}, or give kernel='eager' to silence this. The eager kernel is used instead.",
        RuntimeWarning,
        stacklevel=6,
    )
