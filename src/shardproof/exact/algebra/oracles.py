"""Oracles: stand-ins for functions that are not polynomials.

Equal arguments give equal results; nothing else is promised but the identities named here. Each is a
keyed permutation held as a table over the field (a look-up costs about as much as three passes over memory, a keyed
hash of the same quality far more, see benchmarks/bench_exact.py). The tables of a seed are the same in every process
and on every machine: they come from SHA-256 and torch's CPU generator.
"""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from shardproof.exact.algebra.blocks import blocks, is_large
from shardproof.exact.algebra.field import Field, primitive_root

if TYPE_CHECKING:
    from collections.abc import Callable

_NO_RESIDUE: Final = (
    "an element that is no residue (NaN, infinity or a value computed outside exact arithmetic) has reached an oracle"
)

# On x86, NaN and numbers that are too large become the lowest integer, which is outside every table. Arm's cores and
# GPUs make NaN a zero, which is in every table, and a GPU cannot recover from an index out of range: there the elements
# are checked first.
_NAN_MISSES: Final = platform.machine().lower() in {"x86_64", "amd64", "i686"}


@dataclasses.dataclass(slots=True, kw_only=True, weakref_slot=True, eq=False)
class Oracles:
    """The tables of one prime and one key, made when first asked for.

    A table has one float32 entry a residue (exact: residues have at most 23 bits), the entry of x at x + (p-1)/2.
    """

    field: Field
    key: int
    _tables: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    _on_other_devices: dict[tuple[int, torch.device], Tensor] = dataclasses.field(default_factory=dict)
    _exp: tuple[Tensor, int] | None = None
    _root_powers: Tensor | None = None

    def permutation(self, name: str) -> Tensor:
        """A random permutation of the field; another name gives an independent one."""
        return self._table(name, lambda: self._random_permutation(name) - self.field.half)

    def permutation_inverse(self, name: str) -> Tensor:
        """The inverse of `permutation(name)`."""
        return self._table(f"{name}^-1", lambda: _inverted(self.permutation(name), self.field))

    def function(self, name: str) -> Tensor:
        """A random function with f(0) = 0: independent uniform values elsewhere, not a permutation."""
        return self._table(f"{name} function", lambda: self._random_function(name))

    def fixing_zero(self, name: str) -> Tensor:
        """A random permutation with f(0) = 0, for functions like sqrt, of which programs use that."""
        return self._table(f"{name} fixing 0", lambda: self._random_fixing_zero(name))

    def fixing_zero_inverse(self, name: str) -> Tensor:
        """The inverse of `fixing_zero(name)`."""
        return self._table(f"{name} fixing 0^-1", lambda: _inverted(self.fixing_zero(name), self.field))

    def odd(self, name: str) -> Tensor:
        """A random permutation with f(-x) = -f(x)."""
        return self._table(f"{name} odd", lambda: self._random_odd(name))

    def gate(self, *, at_zero: int) -> Tensor:
        """g(x), the stand-in for x > 0 as a number: g(-x) = 1 - g(x), and g(0) as given."""
        return self._table(f"gate {at_zero}", lambda: self._random_gate(at_zero))

    def even(self, name: str, *, at_zero: int) -> Tensor:
        """A random function with f(-x) = f(x) that takes each value at most once on x > 0, and f(0) = `at_zero`."""
        return self._table(f"{name} even {at_zero}", lambda: self._random_even(name, at_zero))

    def reciprocal(self) -> Tensor:
        """1/x, and 0 for 0: a division by zero is noticed where it happens."""
        return self._table("1/x", self._reciprocals)

    def exp(self) -> Tensor:
        """E with E(0) = 1, E(-x) = 1/E(x), never 0 and never -1 (so that a sigmoid's 1 + E(-x) has an inverse).

        Injective but for one pair +-x0, which there is no room for: the values come in pairs {y, 1/y} without 0, 1, -1.
        """
        return self._table("exp", lambda: self._exp_and_leftover()[0])

    def log(self) -> Tensor:
        """The inverse of `exp`: NaN at 0, which has none, and the leftover x0 at -1."""
        return self._table("log", self._inverse_of_exp)

    def look_up(self, table: Tensor, x: Tensor) -> Tensor:
        """table(x) elementwise, in float64, in x's layout.

        Raises:
            FloatingPointError: an element is not a residue (NaN has reached the oracle).
        """
        on_device = self._on_device_of(x, table)
        if not (_NAN_MISSES and x.device.type == "cpu") and not bool((x.abs() <= self.field.half).all()):
            raise FloatingPointError(_NO_RESIDUE)
        if not is_large(x.numel(), x.device):
            return self._gather(on_device, x)
        result = torch.empty_like(x)
        for result_block, x_block in blocks(result, x):
            result_block.copy_(self._gather(on_device, x_block))
        return result

    def _gather(self, table: Tensor, x: Tensor) -> Tensor:
        index = x.to(torch.int32)  # new memory in x's layout, which as_strided then reads from end to end
        flat = index.as_strided((index.numel(),), (1,)).add_(self.field.half)
        try:
            found = table.index_select(0, flat)
        except IndexError as error:
            raise FloatingPointError(_NO_RESIDUE) from error
        return found.to(torch.float64).as_strided(index.shape, index.stride())

    def _table(self, name: str, build: Callable[[], Tensor]) -> Tensor:
        if name not in self._tables:
            self._tables[name] = build().to(torch.float32)
        return self._tables[name]

    def _on_device_of(self, x: Tensor, table: Tensor) -> Tensor:
        if table.device == x.device:
            return table
        key = (table.data_ptr(), x.device)
        if key not in self._on_other_devices:
            self._on_other_devices[key] = table.to(x.device)
        return self._on_other_devices[key]

    def _generator(self, name: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.key}/{self.field.prime}/{name}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def _random_permutation(self, name: str) -> Tensor:
        return torch.randperm(self.field.prime, generator=self._generator(name), dtype=torch.int32)

    def _random_function(self, name: str) -> Tensor:
        half, prime = self.field.half, self.field.prime
        values = torch.randint(prime, (prime,), generator=self._generator(f"{name} function"), dtype=torch.int32) - half
        values[half] = 0
        return values

    def _random_fixing_zero(self, name: str) -> Tensor:
        half = self.field.half
        order = torch.randperm(2 * half, generator=self._generator(name), dtype=torch.int32)
        values = order - half + (order >= half).to(torch.int32)  # the nonzero residues
        return torch.cat((values[:half], values.new_zeros(1), values[half:]))

    def _random_odd(self, name: str) -> Tensor:
        generator, half = self._generator(name), self.field.half
        magnitude = torch.randperm(half, generator=generator, dtype=torch.int32) + 1
        positive = magnitude * (torch.randint(2, (half,), generator=generator, dtype=torch.int32) * 2 - 1)
        return torch.cat((-positive.flip(0), positive.new_zeros(1), positive))

    def _random_gate(self, at_zero: int) -> Tensor:
        """(1 + s(x)) / 2, s a random odd permutation."""
        half, prime = self.field.half, self.field.prime
        twice = self._random_odd("gate") + 1
        values = self._balanced((twice + prime * (twice & 1)) >> 1)  # an odd number is even with p added
        values[half] = at_zero
        return values

    def _random_even(self, name: str, at_zero: int) -> Tensor:
        half = self.field.half
        positive = self._random_permutation(name)[:half] - half
        return torch.cat((positive.flip(0), torch.tensor([at_zero], dtype=torch.int32), positive))

    def _powers(self) -> Tensor:
        """g**k for k = 0 .. p-2, g the smallest primitive root, balanced, as int32; made once for all that use it."""
        if self._root_powers is None:
            self._root_powers = self._balanced(self._all_powers()).to(torch.int32)
        return self._root_powers

    def _all_powers(self) -> Tensor:
        """In [1, p), as int64."""
        prime, root = self.field.prime, primitive_root(self.field.prime)
        powers = torch.ones(1, dtype=torch.int64)
        while powers.numel() < prime - 1:
            step = pow(root, powers.numel(), prime)
            powers = torch.cat((powers, powers * step % prime))
        return powers[: prime - 1]

    def _balanced(self, x: Tensor) -> Tensor:
        return torch.where(x > self.field.half, x - self.field.prime, x)

    def _reciprocals(self) -> Tensor:
        powers = self._powers()
        table = torch.zeros(self.field.prime, dtype=torch.int32)
        table[powers.long() + self.field.half] = torch.cat((powers[:1], powers[1:].flip(0)))  # g**-k = g**(p-1-k)
        return table

    def _exp_and_leftover(self) -> tuple[Tensor, int]:
        if self._exp is None:
            self._exp = self._random_exp()
        return self._exp

    def _random_exp(self) -> tuple[Tensor, int]:
        """The table of `exp`, and the x0 > 0 whose values occur twice."""
        prime, half = self.field.prime, self.field.half
        generator, powers = self._generator("exp"), self._powers()
        # Exponents k and p-1-k give y and 1/y; k = 0 is 1, k = (p-1)/2 is -1. Each x > 0 takes one of the others.
        exponent = torch.randperm(half - 1, generator=generator, dtype=torch.int32) + 1
        exponent = torch.cat((exponent, exponent[:1]))  # one pair more than there are values
        flip = torch.randint(2, (half,), generator=generator, dtype=torch.int32)
        exponent += flip * (prime - 1 - 2 * exponent)
        order = torch.randperm(half, generator=generator, dtype=torch.int32)  # where the repeated pair lies is random
        exponent = exponent.index_select(0, order)
        positive = powers.index_select(0, exponent)
        negative = powers.index_select(0, (prime - 1) - exponent)
        table = torch.cat((negative.flip(0), torch.ones(1, dtype=torch.int32), positive))
        return table.to(torch.float32), int((order == half - 1).nonzero()) + 1

    def _inverse_of_exp(self) -> Tensor:
        half = self.field.half
        values, leftover = self._exp_and_leftover()
        arguments = torch.arange(-half, half + 1)
        once = arguments.abs() != leftover
        table = torch.full((self.field.prime,), float("nan"))
        table[values[once].long() + half] = arguments[once].to(torch.float32)
        table[half - 1] = leftover
        return table


_alive: weakref.WeakValueDictionary[tuple[int, int], Oracles] = weakref.WeakValueDictionary()


@lru_cache(maxsize=3)  # of a proof's three trials: the next proof in this process, with the same seed, has the same
def oracles_of(field: Field, key: int) -> Oracles:
    """The oracles of a prime and a key. Their tables are shared by all exact arithmetics of this process.

    Those last asked for stay: a table has 9 MB, and a training step asks for five or more.
    """
    found = _alive.get((field.prime, key))
    if found is None:
        found = _alive[field.prime, key] = Oracles(field=field, key=key)
    return found


def _inverted(table: Tensor, field: Field) -> Tensor:
    inverse = torch.empty_like(table)
    inverse[table.long() + field.half] = torch.arange(-field.half, field.half + 1, dtype=table.dtype)
    return inverse
