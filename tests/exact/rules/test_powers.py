"""Powers, roots and norms, forward and backward, against Python's integers."""

import math

import pytest
import torch
from tests.exact.rules.formulas import (
    INFINITY,
    by_rows,
    check_gradient,
    check_matrix,
    check_one,
    check_two,
    leaf,
    lift,
    sign,
    sizes,
    total,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, sixteenths

# name: (torch function of one tensor, its values, its derivatives)
ONE = {
    "cube": (lambda x: x**3, lambda x: x * x * x, lambda x: 3 * x * x),
    "power -2": (lambda x: x**-2, lambda x: 1 / (x * x), lambda x: -2 / (x * x * x)),
    "power 1/2": (lambda x: x**0.5, O.sqrt, lambda x: 1 / (2 * O.sqrt(x))),
    "power -1/2": (lambda x: x**-0.5, lambda x: 1 / O.sqrt(x), lambda x: -1 / (2 * O.sqrt(x) ** 3)),
    "power 3/2": (lambda x: x**1.5, lambda x: x * O.sqrt(x), lambda x: 3 * O.sqrt(x) / 2),
    "sqrt": (torch.sqrt, O.sqrt, lambda x: 1 / (2 * O.sqrt(x))),
    "rsqrt": (torch.rsqrt, lambda x: 1 / O.sqrt(x), lambda x: -1 / (2 * O.sqrt(x) ** 3)),
    "square of sqrt": (lambda x: x.sqrt().square(), lambda x: x, None),
    "generic power": (lambda x: x**0.3, lambda x: O.exp(O.log(x) * 3 / 10), None),
    "base": (
        lambda x: 3**x,
        lambda x: O.exp(x * lift(math.log(3))),
        lambda x: O.exp(x * lift(math.log(3))) * lift(math.log(3)),
    ),
}


@pytest.mark.parametrize("name", ONE)
def test_a_function_of_one_number(name):
    check_one(*ONE[name])


def _pow_by_order(x, y):
    return O.exp(O.log(x) * y)


# name: (torch function of two tensors, its values, its derivatives by the first and the second)
TWO = {
    "pow": (torch.pow, _pow_by_order, None, None),
    "hypot": (
        torch.hypot,
        lambda x, y: O.sqrt(x * x + y * y),
        lambda x, y: x / O.sqrt(x * x + y * y),
        lambda x, y: y / O.sqrt(x * x + y * y),
    ),
}


@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_numbers(name):
    check_two(*TWO[name])


# name: (torch function of a matrix, its values from rows of residues)
FORWARD = {
    "norm": (torch.linalg.vector_norm, lambda rows: O.sqrt(total(x * x for row in rows for x in row))),
    "norm of rows": (lambda x: x.norm(dim=1), by_rows(lambda row: O.sqrt(total(x * x for x in row)))),
    "norm of order 1": (lambda x: x.norm(p=1, dim=1), by_rows(lambda row: total(sizes(row)))),
    "norm of order 0": (lambda x: torch.linalg.vector_norm(x, 0, dim=1), by_rows(lambda row: Z(len(row)))),
    "norm of order 3": (
        lambda x: x.norm(p=3, dim=1),
        by_rows(lambda row: O.exp(O.log(total(s**3 for s in sizes(row))) * (Z(1) / 3))),
    ),
    "norm of order 4": (
        lambda x: x.norm(p=4, dim=1),
        by_rows(lambda row: O.exp(O.log(total(x**4 for x in row)) * (Z(1) / 4))),
    ),
    "largest size": (lambda x: x.norm(p=INFINITY, dim=1), by_rows(lambda row: O.largest(sizes(row)))),
    "least size": (
        lambda x: torch.linalg.vector_norm(x, -INFINITY, dim=1),
        by_rows(lambda row: min(sizes(row), key=O.order)),
    ),
}


@pytest.mark.parametrize("name", FORWARD)
def test_a_function_of_a_matrix(name):
    check_matrix(*FORWARD[name])


# name: (torch function of a matrix, the gradient of each row from its numbers and its cotangents)
BACKWARD = {
    "norm": (
        lambda x: x.norm(dim=1, keepdim=True),
        lambda row, g: [g[0] * x / O.sqrt(total(y * y for y in row)) for x in row],
    ),
    "norm of order 1": (
        lambda x: x.norm(p=1, dim=1, keepdim=True),
        lambda row, g: [g[0] * sign(x) for x in row],
    ),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_the_gradient_of_a_function_of_rows(name):
    check_gradient(*BACKWARD[name])


def test_a_generic_power_is_not_one_by_multiplication():
    numbers = sixteenths(4)
    x = leaf(numbers)
    with mode() as exact, pytest.raises(AssertionError):
        check(exact.digits(x**0.3), [Z(a) for a in numbers])


def test_constant_exponents_in_a_tensor_mean_what_the_scalars_mean():
    x = leaf(sixteenths(6))
    exponents = torch.tensor([0.5, 2.0, -1.0, 3.0, -0.5, 0.0], dtype=torch.float64)
    with mode() as exact:
        found = exact.digits(x**exponents)
        one_by_one = torch.stack([exact.digits(x[i] ** e) for i, e in enumerate((0.5, 2, -1, 3, -0.5, 0))])
    assert torch.equal(found, one_by_one)
