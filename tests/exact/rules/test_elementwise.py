"""Addition, multiplication and division of elements, forward and backward, against Python's integers."""

import pytest
import torch
from tests.exact.rules.formulas import (
    HALF,
    check_one,
    check_two,
    leaf,
)
from tests.exact.rules.integers import Z, check, mode, sixteenths

# name: (torch function of one tensor, its values, its derivatives)
ONE = {
    "add": (lambda x: x + 0.5, lambda x: x + HALF, lambda x: Z(1)),
    "add alpha": (lambda x: torch.add(x, x, alpha=3), lambda x: 4 * x, lambda x: Z(4)),
    "rsub": (lambda x: 2 - x, lambda x: 2 - x, lambda x: Z(-1)),
    "neg": (lambda x: -x, lambda x: -x, lambda x: Z(-1)),
    "square": (lambda x: x.square(), lambda x: x * x, lambda x: 2 * x),
    "times itself": (lambda x: x * x, lambda x: x * x, lambda x: 2 * x),
    "reciprocal": (lambda x: x.reciprocal(), lambda x: 1 / x, lambda x: -1 / (x * x)),
    "one over": (lambda x: 3 / x, lambda x: 3 / x, lambda x: -3 / (x * x)),
    "over a number": (lambda x: x / 7, lambda x: x / 7, lambda x: Z(1) / 7),
    "a tenth": (lambda x: x * 0.1, lambda x: x / 10, lambda x: Z(1) / 10),
}


@pytest.mark.parametrize("name", ONE)
def test_a_function_of_one_number(name):
    check_one(*ONE[name])


# name: (torch function of two tensors, its values, its derivatives by the first and the second)
TWO = {
    "add": (torch.add, lambda x, y: x + y, lambda x, y: Z(1), lambda x, y: Z(1)),
    "sub alpha": (lambda x, y: torch.sub(x, y, alpha=2), lambda x, y: x - 2 * y, lambda x, y: Z(1), lambda x, y: Z(-2)),
    "mul": (torch.mul, lambda x, y: x * y, lambda x, y: y, lambda x, y: x),
    "div": (torch.div, lambda x, y: x / y, lambda x, y: 1 / y, lambda x, y: -x / (y * y)),
    "addcmul": (
        lambda x, y: torch.addcmul(x, x, y, value=0.5),
        lambda x, y: x + x * y / 2,
        lambda x, y: 1 + y / 2,
        lambda x, y: x / 2,
    ),
    "addcdiv": (
        lambda x, y: torch.addcdiv(x, x, y, value=2),
        lambda x, y: x + 2 * x / y,
        lambda x, y: 1 + 2 / y,
        lambda x, y: -2 * x / (y * y),
    ),
    "lerp": (
        lambda x, y: torch.lerp(x, y, 0.25),
        lambda x, y: x + (y - x) / 4,
        lambda x, y: Z(3) / 4,
        lambda x, y: Z(1) / 4,
    ),
}


@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_numbers(name):
    check_two(*TWO[name])


def test_a_wrong_formula_is_found():
    numbers = sixteenths(4)
    x = leaf(numbers)
    with mode() as exact, pytest.raises(AssertionError):
        check(exact.digits(x * 2), [Z(a) * 3 for a in numbers])
