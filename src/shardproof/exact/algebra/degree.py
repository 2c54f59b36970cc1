"""How complicated an element is as a formula, and what that says of two formulas that agree by chance.

Every element that exact arithmetic computes is a quotient N/Q of Laurent polynomials in variables: the drawn inputs,
and one variable for each oracle output. A `Degree` bounds what one element of a tensor can be. docs/exact.md states and
proves the theorem behind `Degree.chance`; the names of its quantities are the names here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

from shardproof.exact.algebra.no_bound import NoBound

# No prime is larger, so a degree past this bounds nothing; it becomes UNKNOWN, which keeps numbers and work small.
CEILING = float(1 << 23)

# Oracles of oracles of oracles: each level multiplies the chance by more than 4, and past seven nothing is left of it.
DEEPEST = 7


@dataclass(slots=True, kw_only=True, unsafe_hash=True)  # values; frozen ones take four times as long to make
class Degree:
    """Upper bounds for one element N/Q of a tensor. The degree of a monomial is the sum of its exponents' magnitudes.

    Attributes:
        over: the degree of the numerator N.
        under: the degree of the denominator Q.
        gates: how many oracle outputs can occur anywhere in the formula, inside an oracle's argument too.
        queries: what bounds the argument of any of those oracles, and every element that was compared; None without.
        orders: how many elements were compared on the way, by the keyed order or for equality.
        tops: how many of these decide: of a maximum one, of a sort or a comparison all.
        monomial: the element is a constant times a product of variables, so that 1/x has no denominator either.
        signed: negative exponents can occur.
        inverses: a logarithm occurs, the one oracle that can give back another one's argument.
        loose: an exponential occurs that is not inside a logarithm.
        chosen: which element it is was chosen by comparing; the theorem then asks that what was compared agrees too.
        maximum: it is a maximum of elements that were not chosen.
        lost: why nothing is derived any more; None where something is. It is no part of the value.
    """

    over: float = 0.0
    under: float = 0.0
    gates: float = 0.0
    queries: Degree | None = None
    orders: float = 0.0
    tops: float = 0.0
    monomial: bool = False
    signed: bool = False
    inverses: bool = False
    loose: bool = False
    chosen: bool = False
    maximum: bool = False
    lost: NoBound | None = field(default=None, compare=False, repr=False)

    # What it says ----------------------------------------------------------------------------------------------------

    def chance(self, prime: int) -> float:
        """A bound on P(two different formulas within this degree take the same value); above 1 it says nothing.

        Theorem 1 of docs/exact.md: the chance that the formulas meet once the choices by order are fixed, and that two
        different elements among the `2 * orders` that were compared meet, which would give the choices away.
        """
        if self.unknown:
            return inf
        return self._meets(prime) + self._choice(prime)

    def _choice(self, prime: int) -> float:
        """Step 1 of the proof: no two of the compared elements meet, or only none that decides meets another."""
        if not self.orders or self.queries is None:
            return 0.0
        return min(2 * self.orders**2, 4 * self.tops * self.orders) * self.queries._meets(prime)

    def reason(self, prime: int) -> NoBound:
        """Why the chance is too large: what it is lost to, or the largest of its terms."""
        if self.lost is not None:
            return self.lost
        if self.unknown:
            return NoBound.DEGREE
        met = self._meets(prime)
        if self._choice(prime) > met:
            return NoBound.COMPARED
        alone = replace(self, gates=0.0, inverses=False)._meets(prime)
        return NoBound.DEGREE if alone > met / 2 else NoBound.GATES

    def lost_to(self, reason: NoBound) -> Degree:
        """The same, for this reason without a bound; an earlier reason stays."""
        return self if self.lost is not None else replace(self, lost=reason)

    @property
    def unknown(self) -> bool:
        """Whether nothing is derived for this element."""
        return self.over >= CEILING

    def _meets(self, prime: int) -> float:
        """Lemmas 2 and 3 of docs/exact.md, the choices by order fixed."""
        total = self.over + self.under
        excluded = 4 * self.gates + 3 if self.gates else 0
        if self.unknown or excluded >= prime:
            return inf
        met = (2 if self.signed else 1) * total / (prime - excluded)
        if self.gates and self.queries is not None:
            queries = self.queries
            if self.inverses and self.loose:
                if queries.inverses and queries.loose:
                    return inf  # one level more would ask for another, without end
                queries = queries._beside_outputs()
            met += total * 4 * self.gates * queries._meets(prime)
        if self.inverses:
            met += 4 * self.gates / (prime - excluded)
        return met

    def _beside_outputs(self) -> Degree:
        """Of a pair of an oracle's argument here and another oracle's output: one level more."""
        return replace(self | VARIABLE, gates=self.gates + 1, queries=_joined(self.queries, self), signed=True)

    # The ring --------------------------------------------------------------------------------------------------------

    def __add__(self, other: Degree) -> Degree:
        """Of a sum or difference."""
        if other is CONSTANT:
            return replace(self, over=max(self.over, self.under), monomial=False, maximum=False)
        over = max(self.over + other.under, other.over + self.under)
        return self._with(other, over=over, under=self.under + other.under, monomial=False)

    def __mul__(self, other: Degree) -> Degree:
        """Of a product."""
        if other is CONSTANT:
            return self
        if self is CONSTANT:
            return other
        monomial = self.monomial and other.monomial
        return self._with(other, over=self.over + other.over, under=self.under + other.under, monomial=monomial)

    def __or__(self, other: Degree) -> Degree:
        """Of an element that is one or the other: concatenation, selection, writing into part of a tensor."""
        if self is other:
            return self
        return _checked(
            Degree(
                over=max(self.over, other.over),
                under=max(self.under, other.under),
                gates=max(self.gates, other.gates),
                queries=_joined(self.queries, other.queries),
                orders=max(self.orders, other.orders),
                tops=max(self.tops, other.tops),
                monomial=self.monomial and other.monomial,
                signed=self.signed or other.signed,
                inverses=self.inverses or other.inverses,
                loose=self.loose or other.loose,
                chosen=self.chosen or other.chosen,
                maximum=self.maximum and other.maximum,
                lost=self.lost or other.lost,
            )
        )

    def inverse(self) -> Degree:
        """Of 1/x. Of a product of variables it is one too, with negative exponents."""
        if self.unknown:
            return self
        if self.monomial:
            return replace(self, signed=True, maximum=False) if self.over + self.under > 0 else self
        return replace(self, over=self.under, under=self.over, maximum=False)

    def sum_of(self, count: int) -> Degree:
        """Of a sum of `count` elements, each with a denominator of its own."""
        if count <= 1:
            return self
        return _checked(
            replace(
                self,
                over=self.over + (count - 1) * self.under,
                under=count * self.under,
                gates=count * self.gates,
                orders=count * self.orders,
                tops=count * self.tops,
                monomial=False,
                maximum=False,
            )
        )

    def power(self, exponent: int) -> Degree:
        """Of x**exponent, exponent > 0."""
        return _checked(replace(self, over=self.over * exponent, under=self.under * exponent, maximum=False))

    def softmax_backward(self, grad: Degree, count: int) -> Degree:
        """Of y * (grad - sum(grad * y)) along rows of `count` elements, this one y's: a softmax, y = e/z.

        A row has one z for all its elements, and the same gates: e (grad z - sum(grad e)) / z**2, each element of grad
        with a denominator of its own.
        """
        if self.unknown or grad.unknown:
            return self if self.unknown else grad
        inner = self._with(
            grad,
            over=grad.over + max(self.over, self.under) + (count - 1) * grad.under,
            under=count * grad.under,
            monomial=False,
        )
        return _checked(
            replace(
                inner,
                over=self.over + inner.over,
                under=2 * self.under + inner.under,
                gates=self.gates + count * grad.gates,
                orders=self.orders + count * grad.orders,
                tops=self.tops + count * grad.tops,
            )
        )

    def product_of(self, count: int) -> Degree:
        """Of a product of `count` different elements like this one, count > 0."""
        gates, orders, tops = (count * one for one in (self.gates, self.orders, self.tops))
        return _checked(replace(self.power(count), gates=gates, orders=orders, tops=tops))

    # Oracles ---------------------------------------------------------------------------------------------------------

    def oracle(self) -> Degree:
        """Of an oracle's output: a new variable."""
        return self._queried(self)

    def exp(self) -> Degree:
        """Of E(x), a new variable or its inverse; of something that depends on a logarithm nothing is derived."""
        if self.inverses:
            return UNKNOWN.lost_to(self.lost or NoBound.DEPTH)
        found = self._queried(self)
        return found if found.unknown else replace(found, signed=True, loose=True)

    def log(self) -> Degree:
        """Of the inverse of E: a new variable, or an E's argument on the way here, whose degree `queries` bounds."""
        if self.inverses:
            return UNKNOWN.lost_to(self.lost or NoBound.DEPTH)
        # An output of E may be met by the argument here: it counts among the arguments, as a variable or its inverse.
        found = self._queried(replace(self | VARIABLE, signed=True))
        if found.unknown:
            return found
        before = self.queries or CONSTANT
        return replace(
            found,
            over=max(1.0, before.over),
            under=before.under,
            monomial=False,
            signed=self.signed or before.signed,
            inverses=True,
            loose=False,
        )

    def squared_root(self) -> Degree:
        """Of the argument of the square root whose output this is; the root's own gate is not in it."""
        if self.unknown:
            return self
        before = self.queries or CONSTANT
        return replace(
            self,
            over=before.over,
            under=before.under,
            gates=max(0.0, self.gates - 1),
            monomial=False,
            signed=self.signed or before.signed,
            maximum=False,
        )

    def selected_from(self, count: int) -> Degree:
        """Of an element chosen among `count` like this one by the keyed order."""
        return self.chosen_by(self.compared(count))

    def maximum_of(self, count: int) -> Degree:
        """Of the last of `count` elements like this one in the keyed order; of maxima, of all their elements."""
        if self.maximum:
            tops = self.tops if self.tops == 1 else count * self.tops
            found = _checked(replace(self, orders=count * self.orders, tops=tops))
        else:
            found = self.chosen_by(self._topped(count))
        return replace(found, maximum=self.maximum or not self.chosen)

    def shifted_by_one_of(self, count: int) -> Degree:
        """Of a result that subtracts the maximum of `count` elements like this one before it takes exponentials.

        A softmax of other numbers is another formula whichever is subtracted, so that nothing else has to agree.
        """
        return self.chosen_by(replace(self._topped(count), chosen=False))

    def as_shift(self) -> Degree:
        """Of a maximum that is cut, and from there on only a number by which others are shifted.

        Which element it is need not agree with anything (docs/exact.md, theorem 3).
        """
        if not self.maximum:
            return self
        return replace(self, chosen=False, tops=1 / 2 if self.tops == 1 else self.tops)

    def _topped(self, count: int) -> Degree:
        """Of a comparison of `count` elements like this one, of which only the last in the order decides.

        Of elements that owe to an earlier choice all may decide: which are compared depends on the order.
        """
        found = self.compared(count)
        return found if found.unknown or self.orders else replace(found, tops=1.0)

    def compared(self, count: int) -> Degree:
        """Of what comes of comparing `count` elements like this one: an index, a truth value."""
        return _checked(
            Degree(
                orders=count * (1 + self.orders),
                tops=count * (1 + self.tops),
                queries=_joined(self.queries, self._as_query),
                chosen=True,
                lost=self.lost,
            )
        )

    def chosen_by(self, choice: Degree, times: int = 1) -> Degree:
        """Of an element like this one, where `times` indices or truth values like `choice` say which."""
        if choice.unknown:
            return choice
        if not choice.orders:
            return self
        return _checked(
            replace(
                self,
                orders=self.orders + times * choice.orders,
                tops=self.tops + times * choice.tops,
                queries=_joined(self.queries, choice.queries),
                chosen=self.chosen or choice.chosen,
                maximum=False,
                lost=self.lost or choice.lost,
            )
        )

    # ------------------------------------------------------------------------------------------------------------------

    def _with(self, other: Degree, *, over: float, under: float, monomial: bool) -> Degree:
        return _checked(
            Degree(
                over=over,
                under=under,
                gates=self.gates + other.gates,
                queries=_joined(self.queries, other.queries),
                orders=self.orders + other.orders,
                tops=self.tops + other.tops,
                monomial=monomial,
                signed=self.signed or other.signed,
                inverses=self.inverses or other.inverses,
                loose=self.loose or other.loose,
                chosen=self.chosen or other.chosen,
                lost=self.lost or other.lost,
            )
        )

    @property
    def _as_query(self) -> Degree:
        """As the argument of an oracle, or one of the elements compared: how it was chosen is counted outside."""
        if not (self.orders or self.tops or self.chosen or self.maximum):
            return self
        return replace(self, orders=0.0, tops=0.0, chosen=False, maximum=False)

    def _queried(self, argument: Degree) -> Degree:
        if self.unknown:
            return self
        queries = _joined(self.queries, argument._as_query)
        found = replace(self, over=1.0, under=0.0, gates=self.gates + 1, queries=queries, monomial=True, maximum=False)
        return _checked(found)

    def _depth(self) -> int:
        depth, level = 0, self.queries
        while level is not None:
            depth, level = depth + 1, level.queries
        return depth


def _joined(a: Degree | None, b: Degree | None) -> Degree | None:
    if a is None or a is b:
        return b
    return a if b is None else a | b


def _checked(degree: Degree) -> Degree:
    """The degree; UNKNOWN where it bounds nothing, for this reason or an earlier one."""
    queries = degree.queries
    below = degree.over + degree.under < CEILING and degree.gates < CEILING and degree.orders < CEILING
    if below and (queries is None or (not queries.unknown and degree._depth() <= DEEPEST)):
        return degree  # as most are
    over_the_ceiling = {
        NoBound.DEGREE: degree.over + degree.under >= CEILING or (queries is not None and queries.unknown),
        NoBound.GATES: degree.gates >= CEILING,
        NoBound.COMPARED: degree.orders >= CEILING,
        NoBound.DEPTH: degree._depth() > DEEPEST,
    }
    reason = next((reason for reason, over in over_the_ceiling.items() if over), None)
    if reason is None:
        return degree
    inner = None if queries is None else queries.lost
    return UNKNOWN.lost_to(degree.lost or inner or reason)


CONSTANT = Degree(monomial=True)
VARIABLE = Degree(over=1.0, monomial=True)
UNKNOWN = Degree(over=CEILING)
