"""Sums whose exponentials are products: which terms a sum, a negative and a multiple have."""

import dataclasses
import operator

import pytest
import torch
from tests.exact.algebra.residues import FIELD, M, drawn

from shardproof.exact.algebra.degree import CONSTANT, VARIABLE
from shardproof.exact.algebra.residue import LogTerms
from shardproof.exact.rules.log_terms import (
    as_shift,
    deepest_taken_away,
    least_depth,
    negative_terms,
    product_of_terms,
    sum_of_terms,
    summed_terms,
)


def of(seed):
    return M.residue(drawn(3, 4, seed=seed), VARIABLE)


def plus(x, y):
    return sum_of_terms(x, y, x + y)


def minus(x, y):
    return sum_of_terms(x, y, x - y, minus=True)  # one of the two may be a number


def same(x, y):
    return torch.equal(x.tensor, y.tensor)


X, Y, U, V = (of(seed) for seed in range(1, 5))
ORDINARY = [("sum", plus, operator.add), ("difference", minus, operator.sub)]


MASK = torch.tensor([0.0, -1e4, 0.0, -1e9], dtype=torch.float64)


def masked(x):
    constants = dataclasses.replace(M.residue(MASK.remainder(FIELD.prime), CONSTANT), value=MASK)
    mask = dataclasses.replace(constants, logs=LogTerms(rest=CONSTANT, depth=MASK))
    return plus(x, mask)


def exponential_is_zero(x):
    return (x.exp().tensor == 0).all(0).tolist()


def test_the_exponential_of_a_masked_number_is_zero_whatever_it_was_added_to_or_divided_by():
    for x in (masked(X), plus(masked(X), 3), plus(X, masked(Y)), minus(masked(X), Y), product_of_terms(X, 8, X / 8)):
        expected = [False] * 4 if x.depth is None else [False, True, False, True]
        assert exponential_is_zero(x) == expected
    half = product_of_terms(masked(X), 0.5, masked(X) * 0.5)
    assert exponential_is_zero(half) == [False, True, False, True]
    assert exponential_is_zero(masked(X).sigmoid()) == [False] * 4
    assert (masked(X).sigmoid().tensor == 0).all(0).tolist() == [False, True, False, True]


def test_what_is_no_mask_any_more_has_an_ordinary_exponential():
    assert exponential_is_zero(product_of_terms(masked(X), 0.01, masked(X) * 0.01)) == [False, False, False, True]
    assert exponential_is_zero(negative_terms(masked(X), -masked(X))) == [False] * 4
    assert exponential_is_zero(minus(masked(X), masked(Y))) == [False] * 4
    assert minus(X, masked(Y)).depth is None
    assert product_of_terms(masked(X), Y, masked(X) * Y).logs is None
    number = dataclasses.replace(M.residue(torch.tensor(0.0, dtype=torch.float64)), value=torch.tensor(-1e4))
    number = dataclasses.replace(number, logs=LogTerms(rest=CONSTANT, depth=torch.tensor(-1e4)))
    assert plus(X, number).depth is None  # one number for all
    assert plus(X, -10000).logs is None


def test_a_row_of_masked_numbers_alone_is_measured_from_the_least_deep():
    alone = masked(X).moved(lambda t: t[:, 1::2])
    alone = dataclasses.replace(alone, logs=LogTerms(rest=VARIABLE, depth=MASK[1::2].expand(3, 2)))
    assert exponential_is_zero(deepest_taken_away(alone, -1)) == [False, True]
    assert exponential_is_zero(deepest_taken_away(masked(X), -1)) == [False, True, False, True]
    assert least_depth(masked(X), -1, X.sum(-1), keepdim=False).logs.depth is None
    assert least_depth(alone, -1, alone.sum(-1), keepdim=False).depth.tolist() == [-1e4] * 3


@pytest.mark.parametrize(("combined", "ordinary"), [pair[1:] for pair in ORDINARY], ids=[pair[0] for pair in ORDINARY])
def test_of_ordinary_numbers_a_sum_knows_nothing(combined, ordinary):
    found = combined(X, Y)
    assert found.logs is None
    assert same(found, ordinary(X, Y))
    assert plus(X, 3).logs is None


def test_a_maximum_taken_away_is_a_factor_of_the_exponential_and_cancels():
    less = minus(X, as_shift(Y))
    assert same(less, X - Y)
    assert same(less.exp(), X.exp() / Y.exp())
    assert not same(less.exp(), (X - Y).exp())  # what E alone makes of it
    assert same(less.rest(), X)
    back = plus(less, as_shift(Y))
    assert same(back.exp(), X.exp())
    assert same(back, X)
    assert same(minus(as_shift(Y), as_shift(X)).exp(), Y.exp() / X.exp())


def test_logarithms_of_sums_are_one_logarithm():
    u, v = U.log(), V.log()
    assert same(plus(u, v), (U * V).log())
    assert same(minus(u, v), (U / V).log())
    assert same(plus(u, v).exp(), U * V)
    assert not same(plus(u, v), u + v)


def test_the_maximum_is_a_factor_of_a_sum_of_exponentials_and_no_part_of_its_logarithm():
    exp = minus(X, as_shift(Y)).exp()
    total = exp.log()
    assert same(total, X.exp().log() - Y)
    assert same(plus(total, as_shift(Y)), X.exp().log())
    assert same(plus(total, as_shift(Y)).exp(), X.exp())
    assert same(total.exp(), exp)
    assert same(minus(total, minus(X, as_shift(Y))), X.exp().log() - X)  # a loss
    assert same(product_of_terms(exp, U, exp * U).log(), X + U.log() - Y)
    assert same(product_of_terms(U, exp, U / exp, divided=True).log(), U.log() - X + Y)
    assert bool((product_of_terms(exp, exp, exp / exp, divided=True).log().tensor == 0).all())


def test_a_sum_has_the_factors_that_each_of_its_summands_has():
    row = as_shift(M.residue(drawn(3, 1, seed=9), VARIABLE))
    exp = minus(X, row).exp()
    total = summed_terms(exp, -1, exp.sum(-1), keepdim=False)
    assert same(total.log(), X.exp().sum(-1).log() - row.moved(lambda t: t[:, 0]))
    assert same(
        summed_terms(exp, [1], exp.sum(1, keepdim=True), keepdim=True).log(), X.exp().sum(1, keepdim=True).log() - row
    )
    assert summed_terms(exp, 0, exp.sum(0), keepdim=False).logs is None
    assert summed_terms(exp, None, exp.sum(), keepdim=False).logs is None
    other = minus(Y, row).exp()
    assert same(plus(exp, other).log(), (X.exp() + Y.exp()).log() - row)
    assert plus(exp, minus(Y, as_shift(U)).exp()).logs is None
    assert plus(exp, U).logs is None
    assert plus(exp, 1).logs is None


def test_what_is_zero_has_any_factor():
    keep = torch.tensor([[True, False, True, False]] * 3)
    exps = [minus(x, as_shift(y)).exp() for x, y in ((X, Y), (U, V))]
    found = plus(exps[0].masked(keep), exps[1].masked(~keep))
    factors = M.residue(torch.where(keep, Y.tensor, V.tensor), VARIABLE)
    assert same(found.log(), M.residue(torch.where(keep, X.exp().log().tensor, U.exp().log().tensor)) - factors)
    nothing = M.residue(torch.zeros(3, 4, dtype=torch.float64))
    assert same(plus(nothing, exps[1]).log(), exps[1].log())
    assert same(plus(exps[1], nothing).log(), exps[1].log())
    assert plus(exps[0].masked(keep), exps[1]).logs is None
    masked = exps[0].masked(keep)
    of_rows = summed_terms(masked, 0, masked.sum(0), keepdim=False)
    assert of_rows.logs is None
    assert same(summed_terms(nothing, 0, nothing.sum(0), keepdim=False), nothing.sum(0))


def test_anything_else_beside_a_logarithm_stays_a_summand():
    found = minus(X, U.log())
    assert same(found, X - U.log())
    assert same(found.exp(), X.exp() / U)
    merged = minus(found, V.log())
    assert same(merged, X + (U * V).inverse().log())
    assert same(merged.exp(), X.exp() / U / V)


def test_negatives():
    for x in (as_shift(Y), U.log(), minus(X, as_shift(Y)), minus(X, U.log())):
        found = negative_terms(x, -x)
        assert same(found.exp(), x.exp().inverse())
    assert negative_terms(X, -X).logs is None


def test_a_number_scales_each_term():
    less = minus(X, as_shift(Y))
    found = product_of_terms(less, 3, less * 3)
    assert same(found.exp(), (X * 3).exp() / (Y * 3).exp())
    divided = product_of_terms(less, 4, less / 4, divided=True)
    assert same(divided.exp(), (X / 4).exp() / (Y / 4).exp())
    there = product_of_terms(U.log(), 5, U.log() * 5)
    assert same(product_of_terms(there, 5, there / 5, divided=True).exp(), U)
    assert product_of_terms(less, X, less * X).logs is None  # a tensor of numbers is none
    one = dataclasses.replace(M.residue(torch.tensor(2.0, dtype=torch.float64)), value=torch.tensor(2.0))
    assert product_of_terms(less, one, less * one).logs is not None


def test_a_sum_of_many_maxima_is_an_ordinary_number():
    found = as_shift(X)
    for seed in range(5, 8):
        found = plus(found, as_shift(of(seed)))
        assert found.logs is not None
    assert plus(found, as_shift(of(9))).logs is None


def times(x, y):
    return product_of_terms(x, y, x * y)


def over(x, y):
    return product_of_terms(x, y, y.inverse() if x == 1 else x / y, divided=True)


def log_alone(x):
    return x.log_alone()


def test_the_logarithm_of_a_product_with_an_exponential_is_a_sum():
    assert same(X.exp().log(), X)
    assert same(times(X.exp(), U).log(), X + log_alone(U))
    assert same(over(U, X.exp()).log(), log_alone(U) - X)
    assert same(times(X.exp(), Y.exp()).log(), X + Y)
    assert same(times(times(X.exp(), U).log().exp(), V), X.exp() * U * V)
    assert same(plus(times(X.exp(), U).log(), V.log()), times(times(X.exp(), U), V).log())
    assert not same(times(X.exp(), U).log(), log_alone(X.exp() * U))  # as it is if nothing is known


def test_a_sum_of_exponentials_is_no_product():
    both = plus(X.exp(), Y.exp())
    assert both.logs is None
    assert summed_terms(X.exp(), -1, X.exp().sum(-1), keepdim=False).logs is None
    alone = X.moved(lambda t: t[:, :1]).exp()
    assert same(summed_terms(alone, -1, alone.sum(-1), keepdim=False).log(), X.moved(lambda t: t[:, 0]))


BINOMIALS = {
    "1 + e": lambda: plus(X.exp(), 1),
    "1 - (-e)": lambda: minus(1, negative_terms(X.exp(), -X.exp())),
    "-(-1 - e)": lambda: negative_terms(e := minus(-1, X.exp()), -e),
    "1 / sigmoid": lambda: over(1, over(1, plus(X.exp(), 1))),
}


@pytest.mark.parametrize("name", BINOMIALS)
def test_the_logarithm_of_one_plus_an_exponential_is_softplus_whichever_way_it_is_written(name):
    found = BINOMIALS[name]()
    assert same(found, X.exp() + 1)
    assert same(found.log(), X.softplus())
    assert same(found.log(), X + (-X).softplus())
    assert same(found.log().exp(), found)
    assert not same(found.log(), (X + 1).softplus())


def test_what_a_sigmoid_leaves_of_one_is_the_other_sigmoid():
    below = over(1, plus((-X).exp(), 1))  # sigmoid(X)
    rest = minus(1, below)
    assert same(rest.log(), -X.softplus())
    assert same(below.log(), X - X.softplus())
    assert same(minus(below.log(), rest.log()), X)
    assert same(over(X.exp(), plus(X.exp(), 1)).log(), below.log())
    assert same(plus(negative_terms(below, -below), 1).log(), rest.log())
    assert same(minus(plus(X.exp(), 1), 1).log(), X)
    assert same(times(below, U).log(), below.log() + log_alone(U))


def test_one_less_an_exponential_and_two_more_than_it_are_ordinary_numbers():
    for found in (
        minus(1, X.exp()),
        plus(X.exp(), 2),
        plus(times(X.exp(), U), 1),
        plus(X.exp().masked(X.tensor > 0), 1),
    ):
        assert found.logs is None or not found.logs.whole
        assert same(found.log(), log_alone(found))


def test_whole_multiples_of_a_softplus_are_powers():
    h = plus(X.exp(), 1).log()
    assert same(product_of_terms(h, 2, h * 2).exp(), plus(X.exp(), 1).square())
    assert same(negative_terms(h, -h).exp(), plus(X.exp(), 1).inverse())
    half = product_of_terms(h, 2, h / 2, divided=True)
    assert same(half.exp(), (h / 2).exp_alone())
    many = product_of_terms(h, 9, h * 9)
    assert same(many.exp(), (h * 9).exp_alone())


def test_symbols_of_masks_are_no_shifts():
    x = M.residue(torch.tensor([3.0, float("-inf")], dtype=torch.float64))
    assert as_shift(x).tensor.tolist() == [3.0, float("-inf")]
    assert as_shift(x).logs.shifts[0].tensor.tolist() == [3.0, 0.0]


def test_the_degree_of_the_rest_is_that_of_what_is_no_term():
    assert minus(as_shift(X), U.log()).logs.rest is None
    assert minus(as_shift(X), 2).logs.rest is CONSTANT
    assert plus(minus(X, U.log()), Y).logs.rest == VARIABLE + VARIABLE


def test_terms_have_the_shape_of_the_sum():
    row = M.residue(drawn(3, 1, seed=7), VARIABLE)
    found = minus(X, as_shift(row))
    assert [term.shape for term in found.logs.each()] == [X.shape]
    assert minus(X, row.log()).logs.unit.shape == X.shape
    assert bool((found.tensor.abs() <= FIELD.half).all())
