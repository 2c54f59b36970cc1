"""Sums, means and variances, forward and backward, against Python's integers."""

from fractions import Fraction
from itertools import product

import pytest
import torch
from tests.exact.algebra.residues import M
from tests.exact.rules.formulas import (
    by_rows,
    check_gradient,
    check_matrix,
    mean,
    running,
    total,
    variance,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, sixteenths

from shardproof.exact.algebra.degree import VARIABLE
from shardproof.exact.rules.registry import RULES, find_op

# name: (torch function of a matrix, its values from rows of residues)
FORWARD = {
    "sum": (torch.sum, lambda rows: total(x for row in rows for x in row)),
    "sum of rows": (lambda x: x.sum(1), by_rows(total)),
    "mean": (torch.mean, lambda rows: mean(x for row in rows for x in row)),
    "mean of rows": (lambda x: x.mean(-1, keepdim=True), by_rows(mean)),
    "cumsum": (lambda x: x.cumsum(1), by_rows(lambda row: running(row, lambda a, b: a + b))),
    "var": (lambda x: x.var(1), by_rows(variance)),
    "var without correction": (lambda x: x.var(1, correction=0), by_rows(lambda row: variance(row, 0))),
    "std": (lambda x: x.std(1), by_rows(lambda row: O.sqrt(variance(row)))),
}


@pytest.mark.parametrize("name", FORWARD)
def test_a_function_of_a_matrix(name):
    check_matrix(*FORWARD[name])


def tail_sums(_row, grads):
    return [total(grads[i:]) for i in range(len(grads))]


# name: (torch function of a matrix, the gradient of each row from its numbers and its cotangents)
BACKWARD = {
    "cumsum": (lambda x: x.cumsum(1), tail_sums),
    "mean": (lambda x: x.mean(1, keepdim=True), lambda row, g: [g[0] / len(row)] * len(row)),
    "var": (
        lambda x: x.var(1, keepdim=True),
        lambda row, g: [g[0] * 2 * (x - mean(row)) / (len(row) - 1) for x in row],
    ),
    "std": (
        lambda x: x.std(1, keepdim=True),
        lambda row, g: [g[0] * (x - mean(row)) / (len(row) - 1) / O.sqrt(variance(row)) for x in row],
    ),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_the_gradient_of_a_function_of_rows(name):
    check_gradient(*BACKWARD[name])


# Dims, corrections, shapes --------------------------------------------------------------------------------------------

CUBE = (2, 3, 4)


def cube():
    numbers = sixteenths(24)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(CUBE).requires_grad_()
    return x, {at: Z(n) for at, n in zip(product(*map(range, CUBE)), numbers, strict=True)}


def grouped(numbers, over):
    """The elements that meet in each element of the result, in its order."""
    groups = {}
    for at, number in numbers.items():
        groups.setdefault(tuple(i for d, i in enumerate(at) if d not in over), []).append(number)
    return list(groups.values())


REDUCTIONS = {
    "sum": (torch.sum, total),
    "mean": (torch.mean, mean),
    "var": (torch.var, variance),
    "std": (torch.std, lambda numbers: O.sqrt(variance(numbers))),
    "mean of var_mean": (lambda x, *args, **kw: torch.var_mean(x, *args, **kw)[1], mean),
    "variance of var_mean": (lambda x, *args, **kw: torch.var_mean(x, *args, **kw)[0], variance),
    "mean of std_mean": (lambda x, *args, **kw: torch.std_mean(x, *args, **kw)[1], mean),
}


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dims", [(0,), (1,), (-1,), (0, 2), (0, 1, 2), ()])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_reduction_over_any_dims(name, dims, keepdim):
    function, value = REDUCTIONS[name]
    x, numbers = cube()
    with mode() as exact:
        found = exact.digits(function(x, dims, keepdim=keepdim))
    over = {d % 3 for d in dims or range(3)}  # no dims are all dims
    check(found, [value(group) for group in grouped(numbers, over)])
    kept = tuple(1 if d in over else n for d, n in enumerate(CUBE) if keepdim or d not in over)
    assert found.shape == kept


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_reduction_of_everything(name):
    function, value = REDUCTIONS[name]
    x, numbers = cube()
    with mode() as exact:
        check(exact.digits(function(x)), [value(list(numbers.values()))])


@pytest.mark.parametrize("correction", [0, 1, 2, 0.5])
def test_the_correction_of_a_variance(correction):
    x, numbers = cube()
    with mode() as exact:
        found = exact.digits(x.var((0, 2), correction=correction))
        both = exact.digits(torch.var_mean(x, (0, 2), correction=correction)[0])
        root = exact.digits(x.std((0, 2), correction=correction))
    wanted = [variance(group, Fraction(correction)) for group in grouped(numbers, {0, 2})]
    check(found, wanted)
    check(both, wanted)
    check(root, [O.sqrt(v) for v in wanted])


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_a_dtype_changes_no_digit(dtype):
    x, _ = cube()
    with mode() as exact:
        assert torch.equal(exact.digits(x.sum(dtype=dtype)), exact.digits(x.sum()))
        assert torch.equal(exact.digits(x.sum(1, dtype=dtype)), exact.digits(x.sum(1)))
        assert torch.equal(exact.digits(x.mean(dtype=dtype)), exact.digits(x.mean()))
        assert torch.equal(exact.digits(x.mean(1, dtype=dtype)), exact.digits(x.mean(1)))


@pytest.mark.parametrize(("shape", "dim", "count"), [((5,), 0, 5), ((3, 7), 1, 7), ((3, 7), 0, 3), ((), 0, 1)])
def test_a_cumulative_sum_is_of_as_many_elements_as_the_dim_has(shape, dim, count):
    rule = RULES[find_op("cumsum.default")]
    x = torch.zeros(shape)
    assert rule.kind == "sum"
    assert rule.function(x, x, dim) == rule.function(x, x, dim=dim) == count


DEGREES = {
    "sum.default": ((), VARIABLE.sum_of(24)),
    "sum.dim_IntList": (([1],), VARIABLE.sum_of(3)),
    "mean.default": ((), VARIABLE.sum_of(24)),
    "mean.dim": (([0, 2],), VARIABLE.sum_of(8)),
}


@pytest.mark.parametrize("name", DEGREES)
def test_the_degree_of_a_reduction(name):
    args, degree = DEGREES[name]
    x = M.residue(torch.ones(CUBE, dtype=torch.float64), VARIABLE)
    assert RULES[find_op(name)].function(M, x, *args).degree == degree
