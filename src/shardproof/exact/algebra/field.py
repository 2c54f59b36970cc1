"""The field of integers modulo a prime, on float64 tensors.

A residue is held by its balanced representative, an integer in [-(p-1)/2, (p-1)/2]. With p < 2**21.5 a product of two
is below 2**41, so 1021 of them add up below 2**51, exactly, in whatever order a matrix product adds them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from shardproof.exact.algebra.blocks import blocks, is_large

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction

# Below this, x - p * rint(x * (1/p)) is the balanced representative. p is odd, so x / p is at least 1/(2p) away from
# the halves; two roundings, of 1/p and of the product, move it by |x / p| * 2**-52 * (1 + 2**-54) at most: by less.
EXACT_LIMIT: Final = 2**51

# Added to a number below 2**51, it leaves no bits for a fraction: the addition rounds to the nearest integer. `round_`
# is MKL's, which starts threads whatever the size.
_ROUNDER: Final = torch.tensor(1.5 * 2**52, dtype=torch.float64, device="cpu")

# Square roots of these exist modulo every prime that `choose_prime` gives, so that 1/sqrt(d) has its square.
ROOTED: Final = (2, 3, 5, 7, 11)
_LOWEST, _HIGHEST = 1 << 21, 2965820


def is_prime(number: int) -> bool:
    """Whether `number` is prime, by trial division: numbers here have at most 23 bits."""
    if number < 4:
        return number > 1
    return number % 2 != 0 and all(number % d for d in range(3, int(number**0.5) + 1, 2))


def choose_prime(seed: int) -> int:
    """A prime in [2**21, 2**21.5] modulo which 2, 3, 5, 7 and 11 have square roots; each seed its own choice.

    It is 3 modulo 4, so that of the two roots of a number one has a root itself: fourth roots exist as well.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        candidate = int(torch.randint(_LOWEST, _HIGHEST, (), generator=generator)) | 3
        if is_prime(candidate) and all(pow(q, (candidate - 1) // 2, candidate) == 1 for q in ROOTED):
            return candidate


@dataclass(frozen=True, slots=True)
class Field:
    """Arithmetic modulo `prime`. Every argument and every result holds balanced representatives, unless it says not."""

    prime: int

    def __post_init__(self) -> None:
        if not (3 <= self.prime < 2**23 and is_prime(self.prime)):
            msg = f"prime is {self.prime}; needed is a prime from 3 to 2**23, where float64 products stay exact"
            raise ValueError(msg)

    @property
    def half(self) -> int:
        """The largest representative, (p-1)/2."""
        return (self.prime - 1) // 2

    @property
    def longest_sum(self) -> int:
        """How many products of two representatives, and two representatives more, add up to less than `EXACT_LIMIT`.

        With n = (2**51 - 1) // half**2 - 2: n * half**2 + 2 * half <= (n + 2) * half**2 < 2**51.
        At the largest prime n = 126.
        """
        return (EXACT_LIMIT - 1) // self.half**2 - 2

    def representative(self, number: int | Fraction) -> int:
        """The balanced representative of an integer or fraction.

        Raises:
            ZeroDivisionError: the denominator is a multiple of the prime.
        """
        numerator, denominator = number.numerator % self.prime, number.denominator % self.prime
        if denominator == 0:
            raise ZeroDivisionError(number)
        value = numerator * pow(denominator, -1, self.prime) % self.prime
        return value - self.prime if value > self.half else value

    def reduce_(self, x: Tensor, *, plus: Tensor | None = None) -> Tensor:
        """Bring integers of magnitude below `EXACT_LIMIT` to their representatives, in place.

        Args:
            x: any shape; no two elements share memory.
            plus: added first, in the same pass over memory; broadcast to x. The sums must be below the limit.
        """
        if not is_large(x.numel(), x.device):
            return self._reduce_block_(x, plus)
        for block, *more in blocks(x) if plus is None else blocks(x, plus):
            self._reduce_block_(block, *more)
        return x

    def _reduce_block_(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        if plus is not None:
            x.add_(plus)
        quotient = torch.add(_ROUNDER, x, alpha=1 / self.prime).sub_(_ROUNDER)
        return x.sub_(quotient, alpha=self.prime)

    def multiply(self, a: Tensor, b: Tensor | int) -> Tensor:
        """A * b, elementwise with broadcasting."""
        return self.reduce_(torch.mul(a, b))

    def add(self, a: Tensor, b: Tensor | int, *, times: int = 1) -> Tensor:
        """A + times * b, elementwise with broadcasting: below 2**22 + 2**44, so one reduction is enough."""
        return self.reduce_(torch.add(a, b, alpha=times))

    def multiply_and_add(self, c: Tensor, a: Tensor, b: Tensor | int) -> Tensor:
        """C + a * b, elementwise with broadcasting: below 2**22 + 2**44, so one reduction is enough."""
        if isinstance(b, int):
            return self.add(c, a, times=b)
        return self.reduce_(torch.addcmul(c, a, b))

    def interpolate(self, a: Tensor, b: Tensor, weight: Tensor | int) -> Tensor:
        """A + weight * (b - a): PyTorch's two formulas for it stay below 2**22 + 2**46: one reduction is enough."""
        return self.reduce_(torch.lerp(a, b, weight))

    def sum_of_products(self, a: Tensor, b: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
        """The sum of a * b over some dims of their common shape; products are reduced only where that needs it."""
        a, b = torch.broadcast_tensors(a, b)
        over = {d % a.ndim for d in dims} if a.ndim else set()
        if is_large(a.numel(), a.device) and len(over) == a.ndim:
            # Nothing as large as the operands is kept: block by block to one number.
            total = sum((self.multiply(x, y).sum() for x, y in blocks(a, b)), start=a.new_zeros(()))
            return self.reduce_(total.view([1] * a.ndim if keepdim else []))
        products = torch.mul(a, b)
        if prod(a.shape[d] for d in over) > self.longest_sum:
            self.reduce_(products)
        return self.reduce_(products.sum(tuple(over), keepdim=keepdim) if over else products)

    def matmul(self, a: Tensor, b: Tensor, *, plus: Tensor | None = None) -> Tensor:
        """A @ b for two matrices or two batches of matrices, (..., M, K) @ (..., K, N) -> (..., M, N).

        The inner dimension goes in pieces whose sums stay exact, each added to the reduced sum of those before it.

        Args:
            a: canonical.
            b: canonical.
            plus: a canonical tensor to add, broadcast to the result; it costs no pass over memory of its own.
        """
        inner, longest = a.shape[-1], self.longest_sum
        total = a.narrow(-1, 0, min(inner, longest)) @ b.narrow(-2, 0, min(inner, longest))
        for start in range(longest, inner, longest):
            length = min(longest, inner - start)
            self.reduce_(total)
            x, y = a.narrow(-1, start, length), b.narrow(-2, start, length)
            total = total.addmm_(x, y) if total.ndim == 2 else total.add_(x @ y)
        return self.reduce_(total, plus=plus)

    def square_root(self, number: int) -> int | None:
        """A residue whose square is `number`, always the same of the two; None if there is none.

        For a prime that is 3 modulo 4 it is the one that is a square itself, so that the root of a product is the
        product of the roots. For others it is the smaller one (Tonelli-Shanks).
        """
        return _square_root(number % self.prime, self.prime)

    def is_canonical(self, x: Tensor) -> bool:
        """Whether every element is a balanced representative (NaN is not)."""
        if not x.numel():
            return True
        for (block,) in blocks(x):
            least, most = block.aminmax()
            if not (least >= -self.half and most <= self.half and torch.equal(block, block.round())):
                return False
        return True


@lru_cache(maxsize=4096)
def _square_root(number: int, prime: int) -> int | None:
    if number == 0:
        return 0
    if pow(number, (prime - 1) // 2, prime) != 1:
        return None
    if prime % 4 == 3:
        return pow(number, (prime + 1) // 4, prime)
    odd, twos = prime - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    non_residue = next(n for n in range(2, prime) if pow(n, (prime - 1) // 2, prime) == prime - 1)
    order, c, t, root = twos, pow(non_residue, odd, prime), pow(number, odd, prime), pow(number, (odd + 1) // 2, prime)
    while t != 1:
        least, square = 0, t
        while square != 1:
            square, least = square * square % prime, least + 1
        b = pow(c, 1 << (order - least - 1), prime)
        order, c, t, root = least, b * b % prime, t * b * b % prime, root * b % prime
    return min(root, prime - root)


@lru_cache(maxsize=64)
def primitive_root(prime: int) -> int:
    """The smallest generator of the multiplicative group modulo `prime`."""
    order, factors, rest, d = prime - 1, set(), prime - 1, 2
    while d * d <= rest:
        while rest % d == 0:
            factors.add(d)
            rest //= d
        d += 1
    factors |= {rest} if rest > 1 else set()
    return next(g for g in range(1, prime) if all(pow(g, order // f, prime) != 1 for f in factors))
