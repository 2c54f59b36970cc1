"""Degrees, against polynomials with all their terms; the chance, against theorem 1 of docs/exact.md."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardproof.exact.algebra.degree import CONSTANT, DEEPEST, UNKNOWN, VARIABLE, Degree

P = 2_097_169


class Laurent:
    """A Laurent polynomial: {sorted tuple of (variable, exponent): coefficient}. The naive reference for degrees."""

    def __init__(self, terms):
        self.terms = {k: v for k, v in terms.items() if v != 0}

    @classmethod
    def variable(cls, name):
        return cls({((name, 1),): Fraction(1)})

    @classmethod
    def number(cls, value):
        return cls({(): Fraction(value)})

    def __add__(self, other):
        terms = dict(self.terms)
        for k, v in other.terms.items():
            terms[k] = terms.get(k, 0) + v
        return Laurent(terms)

    def __mul__(self, other):
        terms = {}
        for k, v in self.terms.items():
            for m, w in other.terms.items():
                exponents = dict(k)
                for name, e in m:
                    exponents[name] = exponents.get(name, 0) + e
                key = tuple(sorted((n, e) for n, e in exponents.items() if e))
                terms[key] = terms.get(key, 0) + v * w
        return Laurent(terms)

    def inverse_monomial(self):
        ((key, value),) = self.terms.items()
        return Laurent({tuple((n, -e) for n, e in key): 1 / value})

    @property
    def degree(self):
        return max((sum(abs(e) for _, e in key) for key in self.terms), default=0)


class Quotient:
    """N/Q with the Degree that the code gives it."""

    def __init__(self, over, under, degree):
        self.over, self.under, self.degree = over, under, degree

    def __add__(self, other):
        over = self.over * other.under + other.over * self.under
        return Quotient(over, self.under * other.under, self.degree + other.degree)

    def __mul__(self, other):
        return Quotient(self.over * other.over, self.under * other.under, self.degree * other.degree)

    def inverse(self):
        if self.degree.monomial:
            return Quotient(self.under * self.over.inverse_monomial(), ONE, self.degree.inverse())
        return Quotient(self.under, self.over, self.degree.inverse())


ONE = Laurent.number(1)
leaves = st.sampled_from("abc").map(lambda name: Quotient(Laurent.variable(name), ONE, VARIABLE))
constants = st.integers(1, 5).map(lambda n: Quotient(Laurent.number(n), ONE, CONSTANT))


def grown(children):
    return st.one_of(
        st.tuples(children, children).map(lambda pair: pair[0] + pair[1]),
        st.tuples(children, children).map(lambda pair: pair[0] * pair[1]),
        children.filter(lambda q: q.over.terms).map(Quotient.inverse),
    )


@given(st.recursive(leaves | constants, grown, max_leaves=6))
def test_a_degree_bounds_the_formula_with_all_its_terms(quotient):
    assert quotient.over.degree <= quotient.degree.over
    assert quotient.under.degree <= quotient.degree.under
    negative = any(e < 0 for f in (quotient.over, quotient.under) for key in f.terms for _, e in key)
    assert quotient.degree.signed or not negative


def test_a_degree_that_forgets_the_denominators_would_be_caught():
    x, y = (Quotient(Laurent.variable(n), ONE, VARIABLE) for n in "xy")
    total = (x + y).inverse() + (x * y + x).inverse()
    assert total.under.degree == 3
    assert total.degree.under == 3 > max((x + y).inverse().degree.under, (x * y + x).inverse().degree.under)


# Theorem 1, number by number ------------------------------------------------------------------------------------------


def test_without_oracles_it_is_schwartz_and_zippel():
    assert VARIABLE.power(3).chance(P) == 3 / P
    assert CONSTANT.chance(P) == 0
    quotient = (VARIABLE + VARIABLE).inverse() * VARIABLE
    assert quotient.chance(P) == 2 / P
    assert VARIABLE.inverse().chance(P) == 2 / P  # t and 1/t meet at two points


def test_an_oracle_costs_a_meeting_of_its_query_with_each_of_the_others():
    degree = VARIABLE.power(2).oracle()
    assert degree.chance(P) == pytest.approx(1 / (P - 7) + 4 * 2 / P)
    both = degree * degree
    assert both.chance(P) == pytest.approx(2 / (P - 11) + 2 * 4 * 2 * 2 / P)


def test_queries_of_different_shape_are_bounded_as_a_pair():
    tall, flat = VARIABLE.power(10), (VARIABLE + VARIABLE).power(10).inverse()
    queries = (tall.oracle() + flat.oracle()).queries
    assert queries.over + queries.under == 20
    assert queries.chance(P) > max(tall.chance(P), flat.chance(P))


def test_a_choice_by_order_costs_a_meeting_of_every_pair_once():
    chosen = VARIABLE.selected_from(5)
    assert chosen.chance(P) == pytest.approx(1 / P + 2 * 25 / P)
    again = chosen.oracle()
    assert again.chance(P) == pytest.approx(VARIABLE.oracle().chance(P) + 2 * 25 / P)


def test_the_exponential_may_be_a_variable_or_its_inverse():
    assert VARIABLE.exp().chance(P) == pytest.approx(2 / (P - 7) + 4 / P)


def test_the_logarithm_of_an_exponential_has_the_degree_of_the_argument():
    argument = VARIABLE.power(50)
    assert argument.exp().log().over == 50
    assert argument.exp().log().chance(P) > argument.chance(P)


def test_the_square_of_a_root_has_the_degree_of_the_argument():
    argument = (VARIABLE + VARIABLE).power(50).inverse()
    assert argument.oracle().squared_root().under == 50


def test_an_exponential_beside_a_logarithm_costs_a_level_more():
    inside = (VARIABLE.exp() + VARIABLE.exp()).log()
    beside = inside + VARIABLE.exp()
    assert beside.chance(P) > 10 * inside.chance(P)
    alone = replace(beside, loose=False)
    assert alone.chance(P) < beside.chance(P)


def test_nothing_is_derived_of_an_exponential_after_a_logarithm_nor_of_two_logarithms():
    logarithm = VARIABLE.log()
    assert logarithm.exp().unknown
    assert logarithm.log().unknown
    assert logarithm.oracle().chance(P) < 1e-3


def test_nothing_is_derived_where_an_oracle_is_asked_for_both():
    """As the norm of a gradient through softplus is: the level more would need one itself, without end."""
    both = VARIABLE.log() + VARIABLE.exp()
    assert both.chance(P) < 1e-3
    assert both.oracle().chance(P) == float("inf")
    assert (both.oracle() + VARIABLE).chance(P) == float("inf")


OPERATIONS = {
    "plus": lambda d: d + VARIABLE,
    "times": lambda d: VARIABLE * d,
    "inverse": Degree.inverse,
    "sum": lambda d: d.sum_of(3),
    "power": lambda d: d.power(2),
    "oracle": Degree.oracle,
    "exp": Degree.exp,
    "selected": lambda d: d.selected_from(2),
    "either": lambda d: d | CONSTANT,
    "preimage": Degree.oracle_of_preimage,
    "log": Degree.log,
    "root": Degree.squared_root,
    "choice": VARIABLE.chosen_by,
}
GROWING = ("plus", "times", "inverse", "sum", "power", "oracle", "exp", "selected")


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_derived_stays_nothing_derived(name):
    assert OPERATIONS[name](UNKNOWN).unknown


@pytest.mark.parametrize("name", GROWING)
@given(data=st.data())
def test_a_larger_degree_is_never_a_smaller_chance(name, data):
    small = data.draw(degrees())
    large = small | data.draw(degrees())
    assert OPERATIONS[name](large).chance(P) >= OPERATIONS[name](small).chance(P) * (1 - 1e-12)


@st.composite
def degrees(draw):
    degree = VARIABLE
    for name in draw(st.lists(st.sampled_from(GROWING), max_size=4)):
        degree = OPERATIONS[name](degree)
    return replace(degree, monomial=False)  # a sum of monomials is none, which makes 1/x another formula


def test_what_is_past_every_prime_is_nothing_derived():
    assert VARIABLE.power(1 << 23).unknown
    deep = VARIABLE
    for _ in range(DEEPEST + 1):
        deep = deep.oracle()
    assert deep.unknown


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("fractions", [False, True])
def test_a_softmax_backward_is_within_its_degree_as_an_algebra_system_finds_it(count, fractions):
    import sympy  # PyTorch brings it

    e, a, b = (sympy.symbols(f"{name}0:{count}") for name in "eab")
    z = sum(e)
    y = [one / z for one in e]
    grad = [over / under for over, under in zip(a, b, strict=True)] if fractions else list(a)
    element = y[0] * (grad[0] - sum(g * one for g, one in zip(grad, y, strict=True)))
    over, under = sympy.fraction(sympy.cancel(sympy.together(element)))
    gradient = replace(VARIABLE, under=1.0, monomial=False) if fractions else VARIABLE
    softmax = Degree(over=1.0, under=1.0, gates=count + 1)
    found = softmax.softmax_backward(gradient, count)
    everything = [*e, *a, *b]
    if over != 0:
        assert sympy.Poly(over, *everything).total_degree() <= found.over
        assert sympy.Poly(under, *everything).total_degree() <= found.under
    assert found.gates >= count
    written_out = softmax * (gradient + (gradient * softmax).sum_of(count))
    assert found.over + found.under <= written_out.over + written_out.under
