"""What a rule computes with: residues that know their degree, and the constants and oracles of one run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from math import nan, sqrt
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import Tensor

from shardproof.exact.algebra.chosen_sides import ChoiceLog
from shardproof.exact.algebra.degree import CONSTANT, Degree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from fractions import Fraction

    from shardproof.exact.algebra.cut import Cut
    from shardproof.exact.algebra.field import Field
    from shardproof.exact.algebra.lift import Lift
    from shardproof.exact.algebra.oracles import Oracles

# What a void element is as an integer, where residues are handed out as such: far beyond them.
VOID: Final = 1 << 40
# A constant at most this, among scores of ordinary size, masks them: -1e4 as bfloat16 has it is -9984.
MASKING: Final = -9_000.0

Operand: TypeAlias = "Residue | int | float | Fraction"


@dataclass(slots=True, kw_only=True)
class Arithmetic:
    """One field, its oracles and its constants.

    A division by zero makes an element *void*: it is NaN from there on, and so is every element computed from it.

    Attributes:
        field: of the residues.
        oracles: the tables of the run.
        lift: from real constants to residues.
        zero_divisions: how many elements were divided by zero so far.
        divided_before: the same before the rule that is running: its operands hold no void element.
        operands_void: which elements of that op's first operand were void; None if none were.
        cuts: what reached each cut.
        records_cuts: it is kept.
        limits: of the numbers (tensors without dims) that were limited, x to at least y: the residues of x - y.
        choices: which of two operands was chosen, by each line of the user's code.
    """

    field: Field
    oracles: Oracles
    lift: Lift
    zero_divisions: int = 0
    divided_before: int = 0
    operands_void: Tensor | None = None
    cuts: list[Cut] = dataclasses.field(default_factory=list)
    records_cuts: bool = True
    limits: set[int] = dataclasses.field(default_factory=set)
    choices: ChoiceLog = dataclasses.field(default_factory=ChoiceLog)
    _constants: dict[float | Fraction, int] = dataclasses.field(default_factory=dict)

    def residue(self, tensor: Tensor, degree: Degree = CONSTANT) -> Residue:
        """A value of this arithmetic from canonical residues."""
        return Residue(tensor, degree, self)

    def look_up(self, table: Tensor, x: Tensor) -> Tensor:
        """table(x) elementwise; what the rule that is running has made void stays void.

        Raises:
            FloatingPointError: an element is not a residue.
        """
        if self.zero_divisions == self.divided_before:
            return self.oracles.look_up(table, x)
        void = x.isnan()
        return self.oracles.look_up(table, x.clone().masked_fill_(void, 0.0)).masked_fill_(void, nan)

    def constant(self, value: float | Fraction) -> int:
        """The residue of a Python number."""
        found = self._constants.get(value)
        if found is None:
            found = self._constants[value] = self.lift.number(value)
        return found


@dataclass(frozen=True, slots=True, order=True)
class Threshold:
    """Where a piecewise function changes: at the smallest x with x >= `at`, or with x > `at` if it is `above`."""

    at: float
    above: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pieces:
    """A tensor as a piecewise function of another one; rules/pieces.py computes with it.

    Attributes:
        base: the x that its thresholds are of. Without thresholds it does not matter.
        thresholds: ascending.
        values: the tensor before the first threshold, between the first and the second, and so on; each of the tensor's
            shape, or a single number. They know no pieces of their own.
        of_exp: exponentials or logarithms were taken piece by piece.
    """

    base: Residue
    thresholds: tuple[Threshold, ...]
    values: tuple[Residue, ...]
    of_exp: bool = False

    @property
    def lasting(self) -> bool:
        """Whether powers and products are computed piece by piece too, see rules/pieces.py."""
        return self.of_exp or any(v.ndim == 0 and v.value is not None and bool(v.value != 0) for v in self.values)

    def each(self) -> tuple[Residue, ...]:
        """The base and the values."""
        return (self.base, *self.values)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogFactor:
    """A factor whose logarithm is known: E(q), 1 + E(q) or 1 / (1 + E(q)), q the argument.

    Attributes:
        argument: q, of the shape of the tensor that has the factor.
        binomial: 0 of E(q), 1 of 1 + E(q), -1 of 1 / (1 + E(q)).
    """

    argument: Residue
    binomial: int = 0

    def inverse(self) -> LogFactor:
        """1 over it."""
        return LogFactor(argument=self.argument if self.binomial else -self.argument, binomial=-self.binomial)

    def number(self) -> Residue:
        """Its logarithm."""
        if not self.binomial:
            return self.argument
        found = self.argument.softplus()
        return found if self.binomial > 0 else -found

    def value(self) -> Residue:
        """Itself."""
        e = self.argument.exp_alone()
        return e if not self.binomial else 1 + e if self.binomial > 0 else (1 + e).inverse()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LogTerms:
    """A tensor x as rest + the sum of the shifts + log(unit), and as a product with E(f) for the sum f of the factors.

    So that exp and log keep their laws where programs rely on them: a maximum is subtracted and cancels, sums of
    exponentials are merged by their logarithms. rules/log_terms.py computes with it. The rest is not kept: it is what x
    is more than the other terms. A tensor of factors is an exponential, a sum of such, or a product with one; it is a
    rest as a sum.

    A mask's number, -1e4 or -1e9, is a constant whose exponential is 0 in every floating dtype, whatever score it is
    added to or put in the place of. Where one was, the exponential is 0, as that of -inf.

    Attributes:
        rest: the degree of the rest; None where that is zero.
        shifts: maxima, or their negatives or multiples, each of the tensor's shape.
        unit: a sum of exponentials, a quotient of them and the like, of the tensor's shape; None for 1.
        factors: as shifts are. What is known of an element that is zero does not matter.
        softpluses: binomial factors of the exponential, whose logarithms are summands of x.
        log_factors: factors of x besides, which make E(x), E(x) / sum(E(x)) and sigmoid(x) know their logarithms. A sum
            has none, but for 1 + E(q) and what is made of it.
        whole: 1 if x is the product of its factors and log factors, and nothing else, -1 if it is minus that; else 0.
        depth: the real numbers of masks among the terms, of the tensor's shape: at most `MASKING`, or 0 where is none.
    """

    rest: Degree | None
    shifts: tuple[Residue, ...] = ()
    unit: Residue | None = None
    factors: tuple[Residue, ...] = ()
    softpluses: tuple[LogFactor, ...] = ()
    log_factors: tuple[LogFactor, ...] = ()
    whole: int = 0
    depth: Tensor | None = None

    @property
    def is_sum(self) -> bool:
        """Whether there is more to it than the rest."""
        return bool(self.shifts or self.softpluses) or self.unit is not None

    def summands(self) -> list[Residue]:
        """What x is the sum of, besides the rest."""
        units = [] if self.unit is None else [self.unit.log_alone()]
        return [*units, *self.shifts, *(factor.number() for factor in self.softpluses)]

    def each(self) -> tuple[Residue, ...]:
        """The tensors among them."""
        arguments = (factor.argument for factor in (*self.softpluses, *self.log_factors))
        return (*self.shifts, *self.factors, *arguments, *(() if self.unit is None else (self.unit,)))


@dataclass(slots=True, eq=False)  # a value; frozen ones take four times as long to make
class Residue:
    """A tensor of residues with the degree of its elements. Operators compute modulo the prime and keep the degree.

    Broadcasting, dims and shapes are PyTorch's. Python numbers are lifted where they meet a residue.
    """

    tensor: Tensor
    degree: Degree
    of: Arithmetic
    roots: bool = False  # every element is a result of `sqrt`
    logs: LogTerms | None = None  # as a sum with logarithms and shifts, where it is known to be one
    squared: Residue | None = None  # its square, where this is a root times a constant (a norm over shards)
    value: Tensor | None = None  # the real numbers that the elements stand for, where all are known: a constant's
    pieces: Pieces | None = None  # as a piecewise function of another tensor, where it is known to be one
    divisor: float | None = None  # what it was divided by, a number between 0 and 1: a bias correction

    # Shapes -----------------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        """As of the tensor."""
        return self.tensor.shape

    @property
    def ndim(self) -> int:
        """As of the tensor."""
        return self.tensor.ndim

    @property
    def has_companion(self) -> bool:
        """Whether a square, pieces or logarithms are known; a part of the tensor would need that part of it."""
        return any(known is not None for known in (self.logs, self.squared, self.value, self.pieces))

    @property
    def has_log_terms(self) -> bool:
        """Whether it is known as a sum with shifts or a logarithm."""
        return self.logs is not None and self.logs.is_sum

    @property
    def depth(self) -> Tensor | None:
        """The numbers of masks among its terms."""
        return None if self.logs is None else self.logs.depth

    def numel(self) -> int:
        """As of the tensor."""
        return self.tensor.numel()

    def is_same(self, other: Operand) -> bool:
        """Whether the other is the same view of the same memory: then a product of the two is a square."""
        if not isinstance(other, Residue):
            return False
        a, b = self.tensor, other.tensor
        return a is b or (a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride())

    def moved(self, move: Callable[[Tensor], Tensor]) -> Residue:
        """The residues after a movement of data (a view, a gather, a transposition): the same degree."""
        return Residue(move(self.tensor), self.degree, self.of, self.roots)

    def transpose(self, dim0: int = -2, dim1: int = -1) -> Residue:
        """The last two dims exchanged, or those given."""
        return self._new(self.tensor.transpose(dim0, dim1), self.degree)

    def expand_as(self, other: Residue) -> Residue:
        """Broadcast to the shape of another."""
        return self._new(self.tensor.expand(other.shape), self.degree)

    def masked(self, keep: Tensor) -> Residue:
        """The elements where `keep` holds, zero elsewhere."""
        logs = self.logs
        if logs is not None and logs.whole:
            logs = replace(logs, whole=0)
        return replace(self._new(torch.where(keep, self.tensor, 0.0), self.degree), logs=logs)

    # Ring operations --------------------------------------------------------------------------------------------------

    def __add__(self, other: Operand) -> Residue:
        tensor, degree = self._operand(other)
        return self._new(self.of.field.add(self.tensor, tensor), self.degree + degree)

    __radd__ = __add__

    def __neg__(self) -> Residue:
        return self._new(self.tensor.neg(), self.degree)

    def __sub__(self, other: Operand) -> Residue:
        tensor, degree = self._operand(other)
        return self._new(self.of.field.add(self.tensor, tensor, times=-1), self.degree + degree)

    def __rsub__(self, other: Operand) -> Residue:
        tensor, degree = self._operand(other)
        return self._new(self.of.field.reduce_(torch.rsub(self.tensor, tensor)), self.degree + degree)

    def plus(self, other: Residue, *, times: int) -> Residue:
        """Self + times * other, reduced once; `times` is a constant's residue."""
        tensor = self.of.field.add(self.tensor, other.tensor, times=times)
        return self._new(tensor, self.degree + other.degree)

    def plus_product(self, a: Residue, b: Operand) -> Residue:
        """Self + a * b, reduced once."""
        tensor, degree = a._operand(b)
        return self._new(self.of.field.multiply_and_add(self.tensor, a.tensor, tensor), self.degree + a.degree * degree)

    def __mul__(self, other: Operand) -> Residue:
        tensor, degree = self._operand(other)
        product = self._new(self.of.field.multiply(self.tensor, tensor), self.degree * degree)
        return self._keeping_square(product, tensor) if isinstance(tensor, int) else product

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> Residue:
        if isinstance(other, Residue):
            return self * other.inverse()
        number = self.of.field.representative(self.of.constant(other))
        if number == 0:
            self.of.zero_divisions += 1
            return self.moved(lambda x: torch.full_like(x, nan))
        return self.moved(Tensor.clone) if number == 1 else self._times(pow(number, -1, self.of.field.prime))

    def __rtruediv__(self, other: Operand) -> Residue:
        return self.inverse() * other

    def __matmul__(self, other: Residue) -> Residue:
        return self.matmul(other)

    def matmul(self, other: Residue, *, plus: Residue | None = None) -> Residue:
        """Self @ other + plus, for two matrices or two batches of them."""
        degree = (self.degree * other.degree).sum_of(self.shape[-1])
        if plus is None:
            return self._new(self.of.field.matmul(self.tensor, other.tensor), degree)
        return self._new(self.of.field.matmul(self.tensor, other.tensor, plus=plus.tensor), plus.degree + degree)

    def scaled(self, factor: float) -> Residue:
        """Factor * self; no pass over memory for a factor of one."""
        return self if factor == 1 else self * factor

    def interpolated(self, other: Residue, weight: Operand) -> Residue:
        """Self + weight * (other - self), reduced once."""
        factor, degree = self._operand(weight)
        tensor = self.of.field.interpolate(self.tensor, other.tensor, factor)
        return self._new(tensor, self.degree + (other.degree + self.degree) * degree)

    def __pow__(self, exponent: int) -> Residue:
        """An integer power, by squaring."""
        if exponent < 0:
            return self.inverse() ** -exponent
        if exponent == 0:
            return self._new(torch.ones_like(self.tensor), CONSTANT)
        result, base = None, self.tensor
        rest = exponent
        while rest:
            if rest & 1:
                result = base if result is None else self.of.field.multiply(result, base)
            rest >>= 1
            if rest:
                base = self.of.field.multiply(base, base)
        assert result is not None
        return self._new(result, self.degree.power(exponent))

    def square(self) -> Residue:
        """X * x; of a square root its argument."""
        if self.squared is not None:
            return self.squared
        return self.squared_root() if self.roots else self * self

    def inverse(self) -> Residue:
        """1/x; void where x is 0, which is counted as a division by zero."""
        found = self.of.look_up(self.of.oracles.reciprocal(), self.tensor)
        return self._new(self._void_at_zeros(found), self.degree.inverse())

    def sum(self, dims: Sequence[int] | int | None = None, *, keepdim: bool = False) -> Residue:
        """Over all dims, or those given (an empty list means all, as in PyTorch)."""
        over = (dims,) if isinstance(dims, int) else tuple(dims or range(self.ndim))
        total = self.tensor.sum(over, keepdim=keepdim) if self.ndim else self.tensor.clone()
        count = self.numel() // max(total.numel(), 1)
        return self._new(self.of.field.reduce_(total), self.degree.sum_of(count))

    def sum_of_products(
        self, other: Residue, dims: Sequence[int] | int | None = None, *, keepdim: bool = False
    ) -> Residue:
        """The sum of self * other; of the squares of square roots, the sum of their arguments."""
        if self.is_same(other) and (self.roots or self.squared is not None):
            return self.square().sum(dims, keepdim=keepdim)
        count = torch.broadcast_shapes(self.shape, other.shape)
        over = (dims,) if isinstance(dims, int) else tuple(dims or range(len(count)))
        total = self.of.field.sum_of_products(self.tensor, other.tensor, over, keepdim=keepdim)
        degree = (self.degree * other.degree).sum_of(count.numel() // max(total.numel(), 1))
        return self._new(total, degree)

    def mean(self, dims: Sequence[int] | int | None = None, *, keepdim: bool = False) -> Residue:
        """The sum times the inverse of the count."""
        total = self.sum(dims, keepdim=keepdim)
        count = self.numel() // max(total.numel(), 1)
        return total / count

    # Oracles ----------------------------------------------------------------------------------------------------------

    def oracle(self, name: str) -> Residue:
        """A function with no identities: a random permutation for each name."""
        return self._looked_up(self.of.oracles.permutation(name))

    def odd_oracle(self, name: str) -> Residue:
        """f(-x) = -f(x)."""
        return self._looked_up(self.of.oracles.odd(name))

    def gate(self, *, above: bool) -> Residue:
        """X > 0 if `above`, else x >= 0, as a number: g(-x) = 1 - g(x), and at 0 what the comparison gives."""
        found = self._looked_up(self.of.oracles.gate(at_zero=0 if above else 1))
        return self._new(found.tensor, found.degree + CONSTANT)  # (1 + s(x)) / 2: its inverse has a denominator

    def even_oracle(self, name: str, *, at_zero: int) -> Residue:
        """f(-x) = f(x), f(0) given."""
        return self._looked_up(self.of.oracles.even(name, at_zero=at_zero))

    def exp(self) -> Residue:
        """E(x), see `Oracles.exp`; of a known sum the product of the terms' exponentials; 0 where masked."""
        if self.logs is not None and self.depth is not None:
            found = replace(self, logs=replace(self.logs, depth=None)).exp()
            tensor = found.tensor.masked_fill((self.depth != 0) & ~found.tensor.isnan(), 0.0)
            return replace(found, tensor=tensor, logs=None if found.logs is None else replace(found.logs, whole=0))
        logs = self.logs
        if logs is None or not logs.is_sum:
            found = self.exp_alone()
            factor = LogFactor(argument=self._alone())
            return replace(found, logs=LogTerms(rest=found.degree, log_factors=(factor,), whole=1))
        terms = [shift.exp_alone() for shift in logs.shifts] + [factor.value() for factor in logs.softpluses]
        terms += [] if logs.unit is None else [logs.unit]
        rests = [] if logs.rest is None else [self.rest()]
        found, *others = terms + [rest.exp_alone() for rest in rests]
        for term in others:
            found = found * term
        log_factors = (*logs.softpluses, *(LogFactor(argument=rest) for rest in rests))
        if not logs.shifts and not log_factors:
            return replace(found, logs=None)
        whole = int(logs.unit is None)
        return replace(
            found, logs=LogTerms(rest=found.degree, factors=logs.shifts, log_factors=log_factors, whole=whole)
        )

    def exp_alone(self) -> Residue:
        """E(x), whatever is known of x."""
        return self._new(self.of.look_up(self.of.oracles.exp(), self.tensor), self.degree.exp())

    def rest(self) -> Residue:
        """X less its shifts and the logarithms among its terms, see `LogTerms`."""
        if self.logs is None or not self.logs.is_sum:
            return self._alone()
        tensor = self.tensor
        for term in self.logs.summands():
            tensor = self.of.field.add(tensor, term.tensor, times=-1)
        return self._new(tensor, self.logs.rest or CONSTANT)

    def log(self) -> Residue:
        """The inverse of `exp`, which it knows: f + L(x / E(f)), f the sum of the factors and the log factors' numbers.

        A logarithm of zero counts as a division by zero.
        """
        logs = self.logs or LogTerms(rest=self.degree)
        known = [*logs.factors, *(factor.argument for factor in logs.log_factors if not factor.binomial)]
        softpluses = tuple(factor for factor in logs.log_factors if factor.binomial)
        unit = None
        if logs.whole != 1:
            unit = self._new(self.tensor.clone(), self.degree)
            for argument in known:
                unit = unit * (-argument).exp_alone()
            for factor in softpluses:
                unit = unit * factor.inverse().value()
        terms = LogTerms(rest=None, shifts=tuple(known), unit=unit, softpluses=softpluses)
        first, *others = terms.summands()
        for term in others:
            first = first + term
        return replace(first, logs=terms)

    def log_alone(self) -> Residue:
        """The inverse of E, whatever is known of x."""
        found = self._void_at_zeros(self.of.look_up(self.of.oracles.log(), self.tensor))
        return self._new(found, self.degree.log())

    def softplus(self) -> Residue:
        """The logarithm of 1 + E(x), as (x + L((1 + E(x))**2 / E(x))) / 2: what that of 1 + E(-x) is, and x more."""
        e = self.exp_alone()
        u = e + 2 + e.inverse()  # of one oracle output Z: Z + 2 + 1 / Z
        return (self + replace(u, degree=e.degree + CONSTANT).log_alone()) / 2

    def sqrt(self) -> Residue:
        """A permutation that fixes 0; `squared_root` undoes it. Of a quotient y / c the root of y over that of c."""
        if self.divisor is not None:
            root = (self * self.divisor).sqrt() / sqrt(self.divisor)
            return replace(root, squared=self._alone().moved(torch.clone))  # the program may write into x
        root = self._looked_up(self.of.oracles.fixing_zero("sqrt"))
        return Residue(root.tensor, root.degree, self.of, roots=True)

    def squared_root(self) -> Residue:
        """x**2 where every element is a result of `sqrt`: the argument of the root."""
        table = self.of.oracles.fixing_zero_inverse("sqrt")
        return self._new(self.of.look_up(table, self.tensor), self.degree.squared_root())

    def sigmoid(self) -> Residue:
        """1 / (1 + E(-x)), which is E(x) / (1 + E(x))."""
        if self.depth is not None:
            return self.exp() * (1 + self.exp()).inverse()
        return (1 + (self.exp().inverse() if self.has_log_terms else (-self).exp())).inverse()

    # ------------------------------------------------------------------------------------------------------------------

    def _alone(self) -> Residue:
        """The same, of which nothing else is known."""
        return self._new(self.tensor, self.degree)

    def _void_at_zeros(self, found: Tensor) -> Tensor:
        """What was found for each element, void where the element is zero."""
        zeros = self.tensor.numel() - int(self.tensor.count_nonzero())
        if zeros:
            self.of.zero_divisions += zeros
            found.masked_fill_(self.tensor == 0, nan)
        return found

    def _looked_up(self, table: Tensor) -> Residue:
        return self._new(self.of.look_up(table, self.tensor), self.degree.oracle())

    def _times(self, number: int) -> Residue:
        number = self.of.field.representative(number)
        return self._keeping_square(self._new(self.of.field.multiply(self.tensor, number), self.degree), number)

    def _keeping_square(self, product: Residue, factor: int) -> Residue:
        """The product of a single root and a constant knows its square: norms over shards are divided by sqrt(N)."""
        if self.ndim or not (self.roots or self.squared is not None):
            return product
        square = self.square()
        number = self.of.field.representative(factor * factor)
        return replace(product, squared=self._new(self.of.field.multiply(square.tensor, number), square.degree))

    def _operand(self, other: Operand) -> tuple[Tensor | int, Degree]:
        if isinstance(other, Residue):
            return other.tensor, other.degree
        return self.of.constant(other), CONSTANT

    def _new(self, tensor: Tensor, degree: Degree) -> Residue:
        return Residue(tensor, degree, self.of)
