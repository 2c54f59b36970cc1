"""`compare`: checks that two tensors can be compared, chooses a kernel, and makes the result."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from shardproof.comparison.blocks import open_blocks
from shardproof.comparison.comparison import Comparison, Worst
from shardproof.comparison.elementwise import Tolerance, count_ulp, locate_worst
from shardproof.comparison.formats import COMPARABLE, DEFAULT_TOLERANCES, INTEGERS, ulp_limit
from shardproof.comparison.streaming import block_bytes, stream
from shardproof.comparison.tally import Tally
from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from shardproof.comparison.blocks import BlockReader, Blocks
    from shardproof.comparison.comparison import Number

Kernel = Literal["eager", "compiled"]


def compare(
    actual: torch.Tensor,
    expected: torch.Tensor,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    name: str = "",
    kernel: Kernel = "eager",
) -> Comparison:
    """How `actual` differs from `expected`: see `Comparison`.

    The order of arguments and the default tolerances are torch.testing's. A difference in shape or dtype is a result,
    not an error. Autograd does not record. On the CPU, `kernel="compiled"` builds a C++ kernel (half a second, once a
    process), which is faster for float32, float64 and bfloat16. For other tensors, and without a C++ compiler (then
    with a warning), the eager kernel is used.

    Raises:
        CannotRunError: a tensor has no values to read in order (meta, sparse, DTensor), its dtype is not supported
            (quantized, packed, complex32), a tolerance is negative or NaN, or `kernel` is unknown.
    """
    _check_kernel(kernel)
    actual, expected = check_readable(actual, "actual"), check_readable(expected, "expected")
    mismatch = _mismatch(actual, expected)
    if mismatch is not None:
        tolerance = _tolerance(expected.dtype, rtol, atol, equal_nan)
        return Comparison(
            name=name,
            shape=tuple(expected.shape),
            dtype=expected.dtype,
            count=0,
            exact=False,
            approximate=False,
            rtol=tolerance.rtol,
            atol=tolerance.atol,
            maxdiff=math.nan,
            mismatch=mismatch,
        )
    reader = open_pair(actual, expected)
    return compare_blocks(
        reader, tuple(expected.shape), rtol=rtol, atol=atol, equal_nan=equal_nan, name=name, kernel=kernel
    )


def open_pair(actual: torch.Tensor, expected: torch.Tensor) -> BlockReader:
    """Two tensors of one shape and dtype, to be read in blocks of a size that suits their dtype and device."""
    return open_blocks(actual, expected, max(1, block_bytes(actual.dtype, actual.device) // actual.itemsize))


def compare_blocks(
    reader: Blocks,
    shape: tuple[int, ...],
    *,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    name: str = "",
    kernel: Kernel = "eager",
) -> Comparison:
    """`compare` of two tensors of one shape and dtype that are read block by block; the worst block is read twice.

    Raises:
        CannotRunError: a tolerance is negative or NaN, `kernel` is unknown, or the dtype is not supported.
    """
    _check_kernel(kernel)
    if reader.dtype not in COMPARABLE:
        raise CannotRunError(f"dtype {reader.dtype} is not supported; convert both, say to float32")
    tolerance = _tolerance(reader.dtype, rtol, atol, equal_nan)
    tally = Tally(ulp_limit=ulp_limit(reader.dtype))
    if reader.count > 0:
        done = kernel == "compiled" and _stream_compiled(reader, tolerance, tally)
        if not done:
            stream(reader, tolerance, tally)
    return _conclude(reader, tolerance, tally, name=name, shape=shape)


def _check_kernel(kernel: Kernel) -> None:
    if kernel not in ("eager", "compiled"):
        raise CannotRunError(f"kernel={kernel!r} is unknown; give 'eager' or 'compiled'")


def _conclude(reader: Blocks, tolerance: Tolerance, tally: Tally, *, name: str, shape: tuple[int, ...]) -> Comparison:
    dtype = reader.dtype
    return Comparison(
        name=name,
        shape=shape,
        dtype=dtype,
        count=reader.count,
        exact=tally.exact,
        approximate=tally.close,
        rtol=tolerance.rtol,
        atol=tolerance.atol,
        maxdiff=float(tally.maxdiff) if dtype not in INTEGERS else tally.maxdiff,
        max_ulp=tally.max_ulp if dtype not in INTEGERS else None,
        ulp_limit=tally.ulp_limit,
        worst=_find_worst(reader, tolerance, tally, shape),
        nan_actual=tally.nan_actual,
        nan_expected=tally.nan_expected,
        inf_actual=tally.inf_actual,
        inf_expected=tally.inf_expected,
    )


def _stream_compiled(reader: Blocks, tolerance: Tolerance, tally: Tally) -> bool:
    from shardproof.comparison.compiled import stream_compiled

    return stream_compiled(reader, tolerance, tally)


def _find_worst(reader: Blocks, tolerance: Tolerance, tally: Tally, shape: tuple[int, ...]) -> Worst | None:
    if tally.worst is None:
        return None
    actual, expected = reader.read(tally.worst)
    at = locate_worst(actual, expected, tally.maxdiff, equal_nan=tolerance.equal_nan)
    left = tally.worst.start + at
    index: list[int] = []
    for size in reversed(shape):
        left, i = divmod(left, size)
        index.insert(0, i)
    return Worst(
        index=tuple(index),
        actual=_value(actual[at]),
        expected=_value(expected[at]),
        ulp=count_ulp(actual[at : at + 1], expected[at : at + 1]),
    )


def _value(element: torch.Tensor) -> Number:
    value: Number = element.item()
    return value


def _tolerance(dtype: torch.dtype, rtol: float | None, atol: float | None, equal_nan: bool) -> Tolerance:
    default_rtol, default_atol = DEFAULT_TOLERANCES.get(dtype, (0.0, 0.0))
    for what, given in (("rtol", rtol), ("atol", atol)):
        if given is not None and not given >= 0:  # also true of NaN
            raise CannotRunError(f"{what}={given} is no tolerance; give a number of 0 or more")
    return Tolerance(
        rtol=default_rtol if rtol is None else float(rtol),
        atol=default_atol if atol is None else float(atol),
        equal_nan=equal_nan,
    )


def _mismatch(actual: torch.Tensor, expected: torch.Tensor) -> str | None:
    reasons = []
    if actual.shape != expected.shape:
        reasons.append(f"shape {list(actual.shape)} where {list(expected.shape)} is expected")
    if actual.dtype != expected.dtype:
        given, wanted = (str(t.dtype).removeprefix("torch.") for t in (actual, expected))
        reasons.append(f"dtype {given} where {wanted} is expected")
    return ", ".join(reasons) or None


def check_readable(tensor: torch.Tensor, side: str) -> torch.Tensor:
    """The tensor without autograd.

    Raises:
        CannotRunError: its values cannot be read.
    """
    if not isinstance(tensor, torch.Tensor):
        raise CannotRunError(f"{side} is a {type(tensor).__name__}; give a torch.Tensor")
    kind = type(tensor)
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        raise CannotRunError(
            f"{side} is a {kind.__name__}, which does not hold its values in one place; "
            "give a plain tensor (of a DTensor, .full_tensor() or .to_local())"
        )
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise CannotRunError(f"{side} is sparse or quantized; give a dense tensor (.to_dense(), .dequantize())")
    if tensor.is_meta:
        raise CannotRunError(f"{side} is a meta tensor and holds no values; give one on a device")
    if tensor.dtype not in COMPARABLE:
        raise CannotRunError(f"{side} has dtype {tensor.dtype}, which is not supported; convert both, say to float32")
    return tensor.detach().as_subclass(torch.Tensor)
