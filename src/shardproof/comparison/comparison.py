"""The result of comparing two tensors, and its one-line form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shardproof.representation import represent

if TYPE_CHECKING:
    import torch

Number = bool | int | float | complex
Outcome = Literal["exact", "approximate", "diverged", "nothing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """The element with the largest difference: the first in row-major order; a NaN counts as larger than any number.

    `index` has one entry a tensor dimension. `ulp` counts the representable numbers from one value to the other; it is
    None for integers, and where a value is NaN.
    """

    index: tuple[int, ...]
    actual: Number
    expected: Number
    ulp: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How `actual` differs from `expected`, over all `count` elements.

    Attributes:
        name: of the tensor, for printing.
        mismatch: why the elements could not be compared, in words (shapes or dtypes differ); None where they were.
        exact: every element is equal (`==`: 0.0 equals -0.0, infinity equals itself, NaN equals nothing unless
            `equal_nan` was given).
        approximate: every element has `|actual - expected| <= atol + rtol * |expected|` or is equal: what
            `torch.isclose` says, in the tensors' dtype.
        rtol, atol: the tolerances that were used.
        maxdiff: the largest `|actual - expected|`, in their dtype as in the notebook (float8 in float32, integers
            exactly). Equal elements differ by 0, so two equal infinities do. NaN where one side is NaN.
        max_ulp: the largest ULP distance over all elements without a NaN. It stops counting at `ulp_limit`: there two
            numbers are a factor of two apart or have opposite signs, and larger distances in ULP mean nothing. None
            for integers.
        ulp_limit: where `max_ulp` stops counting; None where it does not stop.
        worst: the element with difference `maxdiff`; None where that is 0.
        nan_actual, nan_expected, inf_actual, inf_expected: how many elements are NaN, how many are infinite.
        told: what happened and where, in one sentence; `shardproof.compare` looks for it where tensors differ.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    count: int
    exact: bool
    approximate: bool
    rtol: float
    atol: float
    maxdiff: float
    max_ulp: int | None = None
    ulp_limit: int | None = None
    worst: Worst | None = None
    nan_actual: int = 0
    nan_expected: int = 0
    inf_actual: int = 0
    inf_expected: int = 0
    mismatch: str | None = None
    told: str | None = None

    @property
    def outcome(self) -> Outcome:
        """In one word; "nothing" where the tensors have no elements, so that nothing was compared."""
        if self.mismatch is not None:
            return "diverged"
        if self.count == 0:
            return "nothing"
        if self.exact:
            return "exact"
        return "approximate" if self.approximate else "diverged"

    def __str__(self) -> str:
        """The notebook's line, and below it what happened, if that was looked for."""
        return self._line(15) + (f"\n    {self.told}" if self.told else "")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return represent(self, "html")

    def describe(self, width: int = 15) -> str:
        """The notebook's line with the name padded to `width`, then the worst element, counts, dtype and tolerances."""
        if self.mismatch is not None or self.count == 0:
            return self._line(width)
        parts = [self._line(width)]
        if self.worst is not None:
            where = self.worst
            distance = "" if where.ulp is None else f", {where.ulp} ulp apart"
            parts.append(f"worst: {list(where.index)} actual {where.actual} expected {where.expected}{distance}")
        if self.max_ulp:
            beyond = self.ulp_limit is not None and self.max_ulp >= self.ulp_limit
            parts.append(f"max ulp: {'>= ' if beyond else ''}{self.max_ulp}")
        if self.nan_actual or self.nan_expected:
            parts.append(f"nan: {self.nan_actual} actual, {self.nan_expected} expected")
        if self.inf_actual or self.inf_expected:
            parts.append(f"inf: {self.inf_actual} actual, {self.inf_expected} expected")
        parts.append(f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}")
        parts.append(f"rtol {self.rtol:g}, atol {self.atol:g}")
        return " | ".join(parts)

    def _line(self, width: int) -> str:
        name = self.name.ljust(width)
        if self.mismatch is not None:
            return f"{name} | differs: {self.mismatch}"
        if self.count == 0:
            return f"{name} | empty, shape {list(self.shape)}: nothing to compare"
        exact, approximate = str(self.exact), str(self.approximate)
        return f"{name} | exact: {exact:5s} | approximate: {approximate:5s} | maxdiff: {self.maxdiff}"
