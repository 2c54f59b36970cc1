"""When two values count as equal: modulo a prime to the last digit, or in floating point within rounding noise.

The relations in `causes.py` are written once, against `Closeness`; the exact judge and the numeric one bring their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

# The largest numerator and denominator of a factor that is looked for in exact arithmetic.
_LARGEST_FACTOR = 64
# In floating point fewer factors can be told apart.
_APPROXIMATE_FACTORS = (
    Fraction(0),
    *(Fraction(n) for n in range(2, 17)),
    *(Fraction(1, n) for n in range(2, 17)),
)
# How many times the noise a relation may miss by. Less than what is rounding, because several relations are tried.
_NEAR = 4.0


class Closeness(Protocol):
    """How values are compared, and the arithmetic in which relations between them are formed."""

    @property
    def approximate(self) -> bool:
        """Whether a relation that holds is only known to hold within rounding noise."""
        ...

    def numbers(self, tensor: Tensor) -> Tensor:
        """The tensor in the dtype in which it can be added up."""
        ...

    def canonical(self, result: Tensor) -> Tensor:
        """What sums and differences of `numbers` are as values that `differs` compares."""
        ...

    def differs(self, actual: Tensor, expected: Tensor) -> Tensor:
        """Element by element, whether two tensors of one shape differ."""
        ...

    def scaled(self, tensor: Tensor, factor: Fraction) -> Tensor:
        """The tensor times a factor."""
        ...

    def squares(self, tensor: Tensor) -> Tensor:
        """The square of each element, in the dtype in which it can be added up."""
        ...

    def same_square(self, actual: float, expected: float) -> bool:
        """Whether two sums of squares are the square of the same norm."""
        ...

    def candidate_factors(self, actual: Tensor, expected: Tensor) -> Iterator[Fraction]:
        """Factors k for which actual = k * expected is worth testing on every element; none if all expected are 0."""
        ...


@dataclass(frozen=True, slots=True)
class Exact:
    """Residues modulo a prime, as int64."""

    prime: int

    @property
    def approximate(self) -> bool:
        return False

    def numbers(self, tensor: Tensor) -> Tensor:
        return tensor

    def canonical(self, result: Tensor) -> Tensor:
        half = self.prime // 2  # representatives lie between -half and half
        return (result + half) % self.prime - half

    def differs(self, actual: Tensor, expected: Tensor) -> Tensor:
        # Not modulo the prime: the symbols for -inf and finfo.min are no residues, and equal themselves alone.
        return actual != expected

    def scaled(self, tensor: Tensor, factor: Fraction) -> Tensor:
        return self.canonical(tensor * (factor.numerator * pow(factor.denominator, -1, self.prime) % self.prime))

    def quotient(self, divided: Tensor, by: Tensor) -> Tensor:
        """Element by element, 0 where it is divided by 0: x**(p - 2) is the inverse of x, and 0 of 0."""
        power, square = torch.ones_like(by), by % self.prime
        for bit in reversed(f"{self.prime - 2:b}"):
            power = power * square % self.prime if bit == "1" else power
            square = square**2 % self.prime
        return self.canonical(divided * power)

    def squares(self, tensor: Tensor) -> Tensor:
        return tensor**2 % self.prime

    def same_square(self, actual: float, expected: float) -> bool:
        return (int(actual) - int(expected)) % self.prime == 0

    def candidate_factors(self, actual: Tensor, expected: Tensor) -> Iterator[Fraction]:
        """The small fractions that are the ratio at the first element that is not expected to be 0."""
        nonzero = (expected.reshape(-1) % self.prime != 0).nonzero()
        if not len(nonzero):
            return
        at = int(nonzero[0])
        ratio = int(actual.reshape(-1)[at]) * pow(int(expected.reshape(-1)[at]), -1, self.prime) % self.prime
        for denominator in range(1, _LARGEST_FACTOR + 1):
            numerator = ratio * denominator % self.prime
            numerator = numerator - self.prime if numerator > self.prime // 2 else numerator
            if abs(numerator) <= _LARGEST_FACTOR:
                yield Fraction(numerator, denominator)


@dataclass(frozen=True, slots=True)
class WithinNoise:
    """Floating point: values are close if they differ by at most a few times the noise. NaN is close to nothing."""

    noise: float

    @property
    def approximate(self) -> bool:
        return True

    def numbers(self, tensor: Tensor) -> Tensor:
        return tensor.double()

    def canonical(self, result: Tensor) -> Tensor:
        return result

    def differs(self, actual: Tensor, expected: Tensor) -> Tensor:
        return ~((actual.double() - expected.double()).abs() <= _NEAR * self.noise)

    def scaled(self, tensor: Tensor, factor: Fraction) -> Tensor:
        return tensor.double() * float(factor)

    def squares(self, tensor: Tensor) -> Tensor:
        return tensor.double().square()

    def same_square(self, actual: float, expected: float) -> bool:
        return abs(math.sqrt(max(actual, 0.0)) - math.sqrt(max(expected, 0.0))) <= _NEAR * self.noise

    def candidate_factors(self, actual: Tensor, expected: Tensor) -> Iterator[Fraction]:  # noqa: ARG002 - all are tried
        if bool(expected.any()):
            yield from _APPROXIMATE_FACTORS


def is_equal(closeness: Closeness, actual: Tensor, expected: Tensor) -> bool:
    """Whether two tensors have one shape and no element differs."""
    return actual.shape == expected.shape and not bool(closeness.differs(actual, expected).any())
