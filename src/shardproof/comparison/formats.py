"""Properties of dtypes: default tolerances, bit layout, the limit of ULP distances."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# torch.testing's table, which it keeps private; a test holds the two equal. Any other dtype has (0, 0).
DEFAULT_TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float16: (1e-3, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float32: (1.3e-6, 1e-5),
    torch.float64: (1e-7, 1e-7),
    torch.complex64: (1.3e-6, 1e-5),
    torch.complex128: (1e-7, 1e-7),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatFormat:
    """The bits of an IEEE-like float, seen as a signed integer of the same width.

    `infinity` is the pattern of +inf, `mantissa` the number of stored mantissa bits, `tiny` the smallest normal number.
    Patterns of one sign are in the order of the numbers, so their difference is the distance in ULP. For opposite signs
    it wraps to at least `2**mantissa` (`2**(w-1) - infinity`, for any width w); a smaller difference is the distance.
    """

    integer: torch.dtype
    infinity: int
    mantissa: int
    tiny: float

    @property
    def ulp_limit(self) -> int:
        """One binade in ULP; see `Comparison.max_ulp`."""
        return 1 << self.mantissa

    def few_ulp(self, rtol: float, atol: float) -> int:
        """A number of ULP that is always within tolerance; at least 0.

        n ULP are at most n * unit of the larger value, unless that is subnormal: there they are below n * unit * tiny.
        """
        unit = 2.0**-self.mantissa
        room = rtol * (1 - 8 * unit)  # torch.isclose rounds in the dtype
        few = min(int(room / (1 + room) / unit), self.ulp_limit - 1)
        return few if few * unit * self.tiny <= atol * (1 - 8 * unit) else 0


FLOAT_FORMATS: dict[torch.dtype, FloatFormat] = {
    torch.float16: FloatFormat(integer=torch.int16, infinity=0x7C00, mantissa=10, tiny=2.0**-14),
    torch.bfloat16: FloatFormat(integer=torch.int16, infinity=0x7F80, mantissa=7, tiny=2.0**-126),
    torch.float32: FloatFormat(integer=torch.int32, infinity=0x7F80_0000, mantissa=23, tiny=2.0**-126),
    torch.float64: FloatFormat(integer=torch.int64, infinity=0x7FF0_0000_0000_0000, mantissa=52, tiny=2.0**-1022),
}

FLOAT8 = frozenset(
    {
        torch.float8_e4m3fn,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2,
        torch.float8_e5m2fnuz,
        torch.float8_e8m0fnu,
    }
)

INTEGERS = frozenset(
    {
        torch.bool,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    }
)

COMPLEX = frozenset({torch.complex64, torch.complex128})

COMPARABLE = frozenset(FLOAT_FORMATS) | FLOAT8 | INTEGERS | COMPLEX


def ulp_limit(dtype: torch.dtype) -> int | None:
    """Where `max_ulp` stops counting for a dtype; None for integers and float8, whose range is a few hundred ULP."""
    real = dtype.to_real() if dtype in COMPLEX else dtype
    return FLOAT_FORMATS[real].ulp_limit if real in FLOAT_FORMATS else None
