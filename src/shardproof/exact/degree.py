"""How complicated an element is as a formula, and what that says of two formulas that agree by chance.

Every element that exact arithmetic computes is a quotient N/Q of polynomials in variables: the drawn inputs, and one
variable for each oracle output. A `Degree` bounds what one element of a tensor can be; docs/exact.md states and proves
the theorem that `Degree.slack` comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

# A degree past this says nothing for any prime that is used; it stands for "no bound" and keeps numbers small.
CEILING = 1e18


@dataclass(frozen=True, slots=True, kw_only=True)
class Degree:
    """Upper bounds for one element N/Q of a tensor.

    Attributes:
        over: the total degree of the numerator N.
        under: the total degree of the denominator Q.
        gates: how many oracle outputs can occur anywhere in the formula.
        query_slack: the largest `slack` of an input of one of those oracles.
    """

    over: float = 0.0
    under: float = 0.0
    gates: float = 0.0
    query_slack: float = 0.0

    @property
    def slack(self) -> float:
        """A bound on p * P(two different formulas of this degree take the same value), see docs/exact.md.

        N1*Q2 - N2*Q1 has degree D = over + under. Schwartz (1980) and Zippel (1979) give D/p for independent variables;
        an oracle output is one unless its query met one of the other queries by chance, which costs at most
        D * 2 * gates * query_slack / p; and neither denominator may vanish, which costs at most 2 * under / p.
        """
        total = self.over + self.under
        slack = total + 2 * self.under
        if self.gates:
            slack += total * 4 * self.gates * (1 + self.query_slack)
        return slack if slack < CEILING else inf

    def __add__(self, other: Degree) -> Degree:
        """Of a sum or difference."""
        return self._with(
            other, over=max(self.over + other.under, other.over + self.under), under=self.under + other.under
        )

    def __mul__(self, other: Degree) -> Degree:
        """Of a product."""
        return self._with(other, over=self.over + other.over, under=self.under + other.under)

    def __or__(self, other: Degree) -> Degree:
        """Of an element that is one or the other: concatenation, selection, writing into part of a tensor."""
        if self is other:
            return self
        return Degree(
            over=max(self.over, other.over),
            under=max(self.under, other.under),
            gates=max(self.gates, other.gates),
            query_slack=max(self.query_slack, other.query_slack),
        )

    def _with(self, other: Degree, *, over: float, under: float) -> Degree:
        return Degree(
            over=_capped(over),
            under=_capped(under),
            gates=_capped(self.gates + other.gates),
            query_slack=max(self.query_slack, other.query_slack),
        )

    def inverse(self) -> Degree:
        """Of 1/x."""
        return Degree(over=self.under, under=self.over, gates=self.gates, query_slack=self.query_slack)

    def sum_of(self, count: int) -> Degree:
        """Of a sum of `count` elements, each with a denominator of its own."""
        if count <= 1:
            return self
        return Degree(
            over=_capped(self.over + (count - 1) * self.under),
            under=_capped(count * self.under),
            gates=_capped(count * self.gates),
            query_slack=self.query_slack,
        )

    def power(self, exponent: int) -> Degree:
        """Of x**exponent, exponent >= 0."""
        return Degree(
            over=_capped(self.over * exponent),
            under=_capped(self.under * exponent),
            gates=self.gates,
            query_slack=self.query_slack,
        )

    def oracle(self) -> Degree:
        """Of an oracle's output: a new variable, whose query must not have met another one by chance."""
        return Degree(over=1.0, gates=_capped(self.gates + 1), query_slack=max(self.query_slack, self.slack))

    def selected_from(self, count: int) -> Degree:
        """Of an element chosen among `count` by the keyed order: each of them is a query of the order oracle."""
        return Degree(
            over=self.over,
            under=self.under,
            gates=_capped(count * (self.gates + 1)),
            query_slack=max(self.query_slack, self.slack),
        )


CONSTANT = Degree()
VARIABLE = Degree(over=1.0)
UNKNOWN = Degree(over=CEILING, under=CEILING)


def _capped(value: float) -> float:
    return min(value, CEILING)
