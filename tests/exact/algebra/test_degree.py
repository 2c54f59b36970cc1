"""Degrees, against polynomials with all their terms; the chance, against theorem 1 of docs/exact.md."""

from dataclasses import replace
from fractions import Fraction
from functools import reduce
from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.exact.algebra.residues import check_value_class

from shardproof.exact.algebra.bound import LARGEST_USEFUL, bound_of
from shardproof.exact.algebra.degree import CEILING, CONSTANT, DEEPEST, UNKNOWN, VARIABLE, Degree
from shardproof.exact.algebra.no_bound import NoBound

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


# Every field, number by number ----------------------------------------------------------------------------------------

ASKED = Degree(over=13.0, under=2.0, gates=1.0)
ASKED_TOO = Degree(over=5.0, under=7.0)
A = Degree(over=11.0, under=3.0, gates=5.0, queries=ASKED, orders=7.0, monomial=True, signed=True, loose=True)
B = Degree(over=4.0, under=9.0, gates=6.0, queries=ASKED_TOO, orders=2.0, monomial=True, inverses=True, chosen=True)
BOTH_ASKED = Degree(over=13.0, under=7.0, gates=1.0)
EITHER = {"queries": BOTH_ASKED, "signed": True, "inverses": True, "loose": True, "chosen": True}
PLAIN = replace(A, monomial=False)

MAXIMUM = replace(VARIABLE, orders=4.0, tops=1.0, queries=VARIABLE, chosen=True, maximum=True)

WANTED = {
    # N/Q + M/R = (NR + MQ) / QR
    "a sum": (A + B, Degree(over=20.0, under=12.0, gates=11.0, orders=9.0, **EITHER)),
    "a sum the other way round": (B + A, Degree(over=20.0, under=12.0, gates=11.0, orders=9.0, **EITHER)),
    "a constant added": (A + CONSTANT, replace(A, monomial=False)),
    "a constant added, under the larger": (B + CONSTANT, replace(B, over=9.0, monomial=False)),
    "a product": (A * B, Degree(over=15.0, under=12.0, gates=11.0, orders=9.0, monomial=True, **EITHER)),
    "a product with no monomial": (
        PLAIN * B,
        Degree(over=15.0, under=12.0, gates=11.0, orders=9.0, monomial=False, **EITHER),
    ),
    "a product by no monomial": (
        B * PLAIN,
        Degree(over=15.0, under=12.0, gates=11.0, orders=9.0, monomial=False, **EITHER),
    ),
    "times a constant": (A * CONSTANT, A),
    "a constant times": (CONSTANT * A, A),
    "one or the other": (A | B, Degree(over=11.0, under=9.0, gates=6.0, orders=7.0, monomial=True, **EITHER)),
    "one or a sum": (A | replace(B, monomial=False), Degree(over=11.0, under=9.0, gates=6.0, orders=7.0, **EITHER)),
    "one or itself": (A | A, A),
    "one or what asks nothing": (
        A | VARIABLE,
        replace(A, monomial=True),
    ),
    "the inverse of a monomial": (replace(B, under=0.0).inverse(), replace(B, under=0.0, signed=True)),
    "the inverse of a monomial denominator": (replace(B, over=0.0).inverse(), replace(B, over=0.0, signed=True)),
    "the inverse of a constant": (CONSTANT.inverse(), CONSTANT),
    "the inverse of a sum": (PLAIN.inverse(), replace(PLAIN, over=3.0, under=11.0)),
    # N/Q + N'/Q' + N''/Q'': each denominator times the others' numerators
    "a sum of three": (A.sum_of(3), replace(A, over=17.0, under=9.0, gates=15.0, orders=21.0, monomial=False)),
    "a sum of one": (A.sum_of(1), A),
    "a sum of none": (A.sum_of(0), A),
    "a sum of two": (A.sum_of(2), replace(A, over=14.0, under=6.0, gates=10.0, orders=14.0, monomial=False)),
    "a cube": (A.power(3), replace(A, over=33.0, under=9.0)),
    "a product of three": (A.product_of(3), replace(A, over=33.0, under=9.0, gates=15.0, orders=21.0)),
    "an oracle": (
        PLAIN.oracle(),
        replace(
            A,
            over=1.0,
            under=0.0,
            gates=6.0,
            queries=replace(PLAIN, queries=ASKED, over=13.0, orders=0.0),
            monomial=True,
        ),
    ),
    "an oracle of a variable": (VARIABLE.oracle(), Degree(over=1.0, gates=1.0, queries=VARIABLE, monomial=True)),
    "an oracle of what was chosen": (
        replace(VARIABLE, orders=4.0, chosen=True).oracle(),
        Degree(over=1.0, gates=1.0, queries=VARIABLE, orders=4.0, monomial=True, chosen=True),
    ),
    "an exponential": (
        VARIABLE.exp(),
        Degree(over=1.0, gates=1.0, queries=VARIABLE, monomial=True, signed=True, loose=True),
    ),
    "a logarithm of a variable": (
        VARIABLE.log(),
        Degree(over=1.0, gates=1.0, queries=replace(VARIABLE, signed=True), inverses=True),
    ),
    "a logarithm of a constant": (
        CONSTANT.log(),
        Degree(over=1.0, gates=1.0, queries=replace(VARIABLE, signed=True), inverses=True),
    ),
    "a logarithm of an exponential": (
        VARIABLE.power(8).exp().log(),
        Degree(
            over=8.0,
            gates=2.0,
            queries=Degree(over=8.0, gates=1.0, queries=VARIABLE.power(8), monomial=True, signed=True, loose=True),
            signed=True,
            inverses=True,
        ),
    ),
    "the square of a root": (
        replace(VARIABLE, over=6.0, under=2.0, monomial=False).oracle().squared_root(),
        Degree(over=6.0, under=2.0, queries=Degree(over=6.0, under=2.0)),
    ),
    "the square of a root of something signed": (
        VARIABLE.inverse().oracle().squared_root(),
        Degree(over=1.0, queries=VARIABLE.inverse(), signed=True),
    ),
    "the square of a signed root": (
        replace(VARIABLE.oracle(), signed=True).squared_root(),
        Degree(over=1.0, queries=VARIABLE, signed=True),
    ),
    "the square of a root that asks nothing": (replace(VARIABLE, signed=True).squared_root(), Degree(signed=True)),
    "the square of a root with more gates": (
        replace(A, gates=5.0).squared_root(),
        replace(A, over=13.0, under=2.0, gates=4.0, monomial=False),
    ),
    "compared": (
        A.compared(3),
        Degree(orders=24.0, tops=3.0, queries=ASKED | replace(A, orders=0.0, chosen=False), chosen=True),
    ),
    "a variable compared": (VARIABLE.compared(2), Degree(orders=2.0, tops=2.0, queries=VARIABLE, chosen=True)),
    "selected": (VARIABLE.selected_from(4), replace(VARIABLE, orders=4.0, tops=4.0, queries=VARIABLE, chosen=True)),
    "shifted by one": (VARIABLE.shifted_by_one_of(4), replace(VARIABLE, orders=4.0, tops=1.0, queries=VARIABLE)),
    "shifted by one that owes to a choice": (
        replace(VARIABLE, orders=2.0, tops=1.0).shifted_by_one_of(4),
        replace(VARIABLE, orders=14.0, tops=9.0, queries=VARIABLE),
    ),
    "a maximum": (VARIABLE.maximum_of(4), MAXIMUM),
    "the maximum of maxima": (MAXIMUM.maximum_of(3), replace(MAXIMUM, orders=12.0)),
    "the maximum of what was chosen": (
        VARIABLE.selected_from(2).maximum_of(3),
        replace(VARIABLE, orders=11.0, tops=11.0, queries=replace(VARIABLE, queries=VARIABLE), chosen=True),
    ),
    "a maximum less another": (
        MAXIMUM + MAXIMUM,
        replace(MAXIMUM, orders=8.0, tops=2.0, monomial=False, maximum=False),
    ),
    "a shift": (MAXIMUM.as_shift(), replace(MAXIMUM, tops=0.5, chosen=False)),
    "no shift": (VARIABLE.selected_from(4).as_shift(), VARIABLE.selected_from(4)),
    "chosen by a truth value": (
        A.chosen_by(VARIABLE.compared(2)),
        replace(A, orders=9.0, tops=2.0, queries=replace(ASKED | VARIABLE), chosen=True),
    ),
    "chosen by several indices": (
        VARIABLE.chosen_by(VARIABLE.compared(2), 5),
        replace(VARIABLE, orders=10.0, tops=10.0, queries=VARIABLE, chosen=True),
    ),
    "chosen by what compared nothing": (A.chosen_by(VARIABLE, 5), A),
    "chosen by what does not say which": (
        replace(VARIABLE, chosen=True).chosen_by(replace(VARIABLE.compared(2), chosen=False)),
        replace(VARIABLE, orders=2.0, tops=2.0, queries=VARIABLE, chosen=True),
    ),
}


@pytest.mark.parametrize("name", WANTED)
def test_every_field_of_a_degree(name):
    found, wanted = WANTED[name]
    assert found == wanted


def test_the_softmax_backward_number_by_number():
    """e (g z - sum(g' e)) / z**2, each element of the gradient with a denominator of its own."""
    y, grad = replace(PLAIN, queries=None, tops=2.0), replace(B, queries=None, tops=3.0, monomial=False)
    found = y.softmax_backward(grad, 4)
    inner = grad.over + max(y.over, y.under) + 3 * grad.under
    assert found == Degree(
        over=y.over + inner,
        under=2 * y.under + 4 * grad.under,
        gates=y.gates + 4 * grad.gates,
        orders=y.orders + 4 * grad.orders,
        tops=2.0 + 4 * 3.0,
        signed=True,
        inverses=True,
        loose=True,
        chosen=True,
    )
    flat = replace(y, over=1.0, under=6.0)
    assert flat.softmax_backward(grad, 1).over == 1.0 + grad.over + 6.0
    assert y.softmax_backward(UNKNOWN, 2).unknown
    assert UNKNOWN.softmax_backward(grad, 2).unknown
    assert not y.softmax_backward(grad, 2).unknown


def test_a_degree_is_a_value_of_a_constant_unless_said_otherwise():
    check_value_class(VARIABLE)
    assert Degree() == replace(CONSTANT, monomial=False)
    assert (CONSTANT.over, CONSTANT.under, CONSTANT.gates, CONSTANT.orders, CONSTANT.queries) == (0, 0, 0, 0, None)
    assert replace(CONSTANT, over=1.0) == VARIABLE


ON_TWO = {
    "sum": lambda a, b: a + b,
    "product": lambda a, b: a * b,
    "either": lambda a, b: a | b,
    "inverse": lambda a, _: a.inverse(),
    "sum of": lambda a, _: a.sum_of(3),
    "power": lambda a, _: a.power(3),
    "product of": lambda a, _: a.product_of(3),
    "softmax backward": lambda a, b: a.softmax_backward(b, 3),
    "oracle": lambda a, _: a.oracle(),
    "exp": lambda a, _: a.exp(),
    "log": lambda a, _: a.log(),
    "squared root": lambda a, _: a.squared_root(),
    "selected": lambda a, _: a.selected_from(3),
    "maximum": lambda a, _: a.maximum_of(3),
    "shifted": lambda a, _: a.shifted_by_one_of(3),
    "as a shift": lambda a, _: a.as_shift(),
    "chosen": lambda a, b: a.chosen_by(b.compared(3)),
    "lost": lambda a, _: a.lost_to(NoBound.DEPTH),
    "asked for its chance": lambda a, _: a.chance(P),
}


@pytest.mark.parametrize("operation", ON_TWO)
def test_an_operation_leaves_its_operands_as_they_are(operation):
    operands = [VARIABLE.exp() * VARIABLE + CONSTANT, VARIABLE.maximum_of(4).oracle(), CONSTANT, VARIABLE]
    before = [replace(operand) for operand in operands]
    for one in operands:
        for other in operands:
            ON_TWO[operation](one, other)
    assert operands == before
    assert [operand.lost for operand in operands] == [operand.lost for operand in before]


@pytest.mark.parametrize("field", ["monomial", "signed", "inverses", "loose", "chosen"])
def test_a_flag_is_off_unless_said_otherwise(field):
    assert getattr(Degree(), field) is False
    for operation in (Degree.__add__, Degree.__mul__, Degree.__or__):
        one = Degree(over=1.0)
        other = replace(one, **{field: True})
        assert getattr(operation(one, one), field) is False
        if field != "monomial":
            assert getattr(operation(one, other), field) is True
            assert getattr(operation(other, one), field) is True


@pytest.mark.parametrize(
    "found",
    [
        MAXIMUM + CONSTANT,
        MAXIMUM + VARIABLE,
        VARIABLE + MAXIMUM,
        MAXIMUM * VARIABLE,
        VARIABLE * MAXIMUM,
        MAXIMUM | VARIABLE,
        VARIABLE | MAXIMUM,
        MAXIMUM.inverse(),
        replace(MAXIMUM, monomial=False).inverse(),
        MAXIMUM.sum_of(2),
        MAXIMUM.power(2),
        MAXIMUM.product_of(2),
        MAXIMUM.oracle(),
        MAXIMUM.exp(),
        MAXIMUM.log(),
        MAXIMUM.squared_root(),
        MAXIMUM.selected_from(2),
        MAXIMUM.chosen_by(VARIABLE.compared(2)),
        MAXIMUM.shifted_by_one_of(2),
        VARIABLE.selected_from(2).maximum_of(3),
        Degree(),
    ],
    ids=range(21),
)
def test_what_is_computed_from_a_maximum_is_none(found):
    assert not found.maximum
    assert not found.unknown


def test_of_two_maxima_either_is_one():
    assert (MAXIMUM | replace(MAXIMUM, over=2.0)).maximum
    assert MAXIMUM.sum_of(1).maximum
    assert MAXIMUM.maximum_of(3).maximum


# Where nothing is derived any more ------------------------------------------------------------------------------------

TOP = float(CEILING)


def test_a_degree_is_unknown_from_the_ceiling_on():
    assert CEILING == 2**23
    assert Degree(over=TOP).unknown
    assert not Degree(over=TOP - 1).unknown
    assert not Degree(under=TOP).unknown  # made by no operation: each checks the sum of both


@pytest.mark.parametrize(
    "found",
    [
        lambda most: Degree(over=most - 1) * VARIABLE,
        lambda most: Degree(over=most - 2, under=1.0) * VARIABLE,
        lambda most: Degree(under=most - 1) * VARIABLE,
        lambda most: Degree(over=1.0, gates=most - 1) * Degree(over=1.0, gates=1.0),
        lambda most: Degree(over=1.0, orders=most - 1) * Degree(over=1.0, orders=1.0),
        lambda most: VARIABLE.power(int(most)),
        lambda most: VARIABLE.product_of(int(most)),
        lambda most: replace(VARIABLE, gates=1.0).sum_of(int(most)),
        lambda most: Degree(under=1.0).sum_of(int(most) // 2 + 1) if most == TOP else Degree(under=1.0).sum_of(9),
        lambda most: Degree(over=most) | VARIABLE,
        lambda most: VARIABLE.compared(int(most)),
        lambda most: VARIABLE.chosen_by(VARIABLE.compared(2), int(most) // 2),
    ],
    ids=range(12),
)
def test_an_operation_whose_result_reaches_the_ceiling_knows_nothing(found):
    assert found(TOP) == UNKNOWN
    assert not found(TOP - 2).unknown


def test_oracles_of_oracles_are_known_down_to_a_depth():
    degree = VARIABLE
    for _ in range(DEEPEST):
        degree = degree.oracle()
    assert not degree.unknown
    assert degree.oracle() == UNKNOWN
    assert degree.exp() == UNKNOWN
    assert degree.log() == UNKNOWN


def test_one_of_two_is_a_product_of_variables_only_if_both_are():
    product, total = VARIABLE * VARIABLE, VARIABLE + VARIABLE
    assert (product | VARIABLE).monomial
    assert not (product | total).monomial
    assert not (total | product).monomial


def test_arguments_that_come_back_bring_their_signs():
    signed = Degree(over=1.0, gates=1.0, queries=Degree(over=1.0, signed=True))
    assert signed.squared_root().signed
    assert not Degree(over=1.0, gates=1.0, queries=Degree(over=1.0)).squared_root().signed


def test_an_unknown_query_makes_what_asks_it_unknown():
    assert (Degree(over=1.0, queries=UNKNOWN) * VARIABLE * VARIABLE) == UNKNOWN
    assert UNKNOWN.oracle() == UNKNOWN
    assert UNKNOWN.compared(2) == UNKNOWN
    assert VARIABLE.chosen_by(UNKNOWN) == UNKNOWN
    assert UNKNOWN.chance(P) == float("inf")


# Why nothing is derived -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degree", "reason"),
    [
        (VARIABLE.power(CEILING), NoBound.DEGREE),
        (VARIABLE.power(CEILING // 4), NoBound.DEGREE),
        (VARIABLE.exp().sum_of(CEILING), NoBound.GATES),
        (VARIABLE.exp().sum_of(CEILING // 2), NoBound.GATES),
        (VARIABLE.compared(CEILING), NoBound.COMPARED),
        (VARIABLE.shifted_by_one_of(CEILING // 2), NoBound.COMPARED),
        (VARIABLE.log().exp(), NoBound.DEPTH),
        (VARIABLE.log().log(), NoBound.DEPTH),
        (reduce(lambda degree, _: degree.oracle(), range(DEEPEST + 1), VARIABLE), NoBound.DEPTH),
        (VARIABLE.compared(CEILING).oracle(), NoBound.COMPARED),
    ],
)
def test_what_has_no_bound_says_why_and_what_is_computed_from_it_too(degree, reason):
    assert degree.chance(P) > LARGEST_USEFUL
    assert degree.reason(P) is reason
    lost = degree.lost_to(reason)
    for later in (lost + VARIABLE, VARIABLE * lost, lost | VARIABLE, lost.oracle(), lost.sum_of(3), lost.compared(2)):
        assert later.reason(P) is reason
    assert lost.lost_to(NoBound.READ).lost is reason  # the first one stays
    assert (Degree(over=1.0, queries=UNKNOWN.lost_to(reason)) * VARIABLE).reason(P) is reason  # of an argument
    logarithm = VARIABLE.log().lost_to(reason)
    assert logarithm.exp().reason(P) is logarithm.log().reason(P) is reason
    assert bound_of(lost, prime=P).reason is reason
    assert bound_of(VARIABLE, prime=P).reason is None


def test_a_reason_is_no_part_of_the_value():
    assert VARIABLE.lost_to(NoBound.READ) == VARIABLE
    assert "lost" not in repr(VARIABLE.lost_to(NoBound.READ))


# The chance, number by number -----------------------------------------------------------------------------------------

TEN = Degree(over=7.0, under=3.0)
ASKING = replace(TEN, gates=2.0, queries=Degree(over=4.0, under=1.0))
LOGARITHMIC = replace(ASKING, inverses=True)
INNER = Degree(over=3.0, gates=1.0, queries=VARIABLE)

CHANCES = {
    "a constant": (CONSTANT, 0.0),
    "a quotient": (TEN, 10 / P),
    "with negative exponents": (replace(TEN, signed=True), 20 / P),
    "gates that ask nothing": (replace(TEN, gates=2.0), 10 / (P - 11)),
    "gates": (ASKING, 10 / (P - 11) + 10 * 4 * 2 * 5 / P),
    "gates and negative exponents": (replace(ASKING, signed=True), 20 / (P - 11) + 10 * 4 * 2 * 5 / P),
    "queries that ask in turn": (
        replace(ASKING, queries=INNER),
        10 / (P - 11) + 80 * (3 / (P - 7) + 3 * 4 * 1 / P),
    ),
    "a logarithm": (LOGARITHMIC, 10 / (P - 11) + 10 * 4 * 2 * 5 / P + 4 * 2 / (P - 11)),
    "a logarithm beside an exponential": (
        replace(LOGARITHMIC, loose=True),
        10 / (P - 11)
        + 80 * (2 * 5 / (P - 7) + 5 * 4 * 1 * 5 / P)  # of a pair: one gate more, signed, the larger degree
        + 8 / (P - 11),
    ),
    "an exponential alone": (replace(ASKING, loose=True), 10 / (P - 11) + 10 * 4 * 2 * 5 / P),
    "compared": (replace(TEN, orders=3.0, tops=3.0, queries=Degree(over=4.0)), 10 / P + 2 * 9 * 4 / P),
    "compared, and one decides": (
        replace(TEN, orders=30.0, tops=1.0, queries=Degree(over=4.0)),
        10 / P + 4 * 30 * 4 / P,
    ),
    "a shift by one": (replace(TEN, orders=30.0, tops=0.5, queries=Degree(over=4.0)), 10 / P + 2 * 30 * 4 / P),
    "compared without operands": (replace(TEN, orders=3.0), 10 / P),
    "asked without end, by no gate and no comparison": (replace(TEN, queries=UNKNOWN), 10 / P),
    "asked and not compared": (replace(TEN, queries=Degree(over=4.0)), 10 / P),
}


@pytest.mark.parametrize("name", CHANCES)
def test_the_chance_number_by_number(name):
    degree, chance = CHANCES[name]
    assert degree.chance(P) == pytest.approx(chance, rel=1e-12, abs=0)


def test_the_chance_of_a_logarithm_whose_queries_hold_one():
    with_logarithm = replace(LOGARITHMIC, queries=LOGARITHMIC)
    assert isfinite(with_logarithm.chance(P))
    assert isfinite(replace(with_logarithm, loose=True).chance(P))  # its queries have no exponential beside
    assert isfinite(replace(with_logarithm, queries=replace(LOGARITHMIC, loose=True)).chance(P))
    both = replace(LOGARITHMIC, loose=True)
    assert replace(both, queries=both).chance(P) == float("inf")
    assert isfinite(replace(both, queries=replace(both, inverses=False)).chance(P))


@pytest.mark.parametrize("gates", [0, 1, 2, 5])
def test_a_prime_that_the_excluded_points_use_up_gives_no_chance(gates):
    excluded = 4 * gates + 3 if gates else 0
    degree = Degree(over=1.0, gates=float(gates))
    assert degree.chance(excluded + 1) == 1.0
    assert degree.chance(max(excluded, 0)) == float("inf")
