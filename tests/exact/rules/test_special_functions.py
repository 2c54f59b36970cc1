"""Special functions and rounding, forward and backward, against the oracles one element at a time."""

import pytest
import torch
from tests.exact.rules.formulas import (
    check_one,
    check_two,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z

# name: (torch function of one tensor, its values, its derivatives)
ONE = {
    "sin": (torch.sin, lambda x: O.odd("sin", x), lambda x: O.even("cos", x, 1)),
    "cos": (torch.cos, lambda x: O.even("cos", x, 1), lambda x: -O.odd("sin", x)),
    "tan": (
        torch.tan,
        lambda x: O.odd("sin", x) / O.even("cos", x, 1),
        lambda x: 1 + (O.odd("sin", x) / O.even("cos", x, 1)) ** 2,
    ),
    "asin": (torch.asin, lambda x: O.odd("asin", x), lambda x: 1 / O.sqrt(1 - x * x)),
    "atan": (torch.atan, lambda x: O.odd("atan", x), lambda x: 1 / (1 + x * x)),
    "erf": (torch.erf, lambda x: O.odd("erf", x), None),
    "erfc": (torch.erfc, lambda x: 1 - O.odd("erf", x), None),
    "erfinv": (torch.erfinv, lambda x: O.odd("erfinv", x), None),
    "lgamma": (torch.lgamma, lambda x: O.any("lgamma", x), lambda x: O.any("digamma", x)),
    "floor": (torch.floor, lambda x: O.any("floor", x), lambda x: Z(0)),
    "ceil": (torch.ceil, lambda x: -O.any("floor", -x), lambda x: Z(0)),
    "trunc": (torch.trunc, lambda x: O.odd("trunc", x), lambda x: Z(0)),
    "frac": (torch.frac, lambda x: x - O.odd("trunc", x), lambda x: Z(1)),
    "round": (torch.round, lambda x: O.odd("round", x), lambda x: Z(0)),
    "round to": (lambda x: x.round(decimals=2), lambda x: O.odd("round", 100 * x) / 100, lambda x: Z(0)),
    "remainder": (lambda x: x % 3, lambda x: x - 3 * O.any("floor", x / 3), lambda x: Z(1)),
    "fmod": (lambda x: x.fmod(3), lambda x: x - 3 * O.odd("trunc", x / 3), lambda x: Z(1)),
    "floor divide": (lambda x: x // 3, lambda x: O.any("floor", x / 3), None),
    "nan to num": (torch.nan_to_num, lambda x: x, lambda x: Z(1)),
}


@pytest.mark.parametrize("name", ONE)
def test_a_function_of_one_number(name):
    check_one(*ONE[name])


# name: (torch function of two tensors, its values, its derivatives by the first and the second)
TWO = {
    "atan2": (
        torch.atan2,
        lambda x, y: O.any("atan2.default", x + O.any("atan2.default, second", y)),
        lambda x, y: y / (x * x + y * y),
        lambda x, y: -x / (x * x + y * y),
    ),
    "remainder": (torch.remainder, lambda x, y: x - y * O.any("floor", x / y), lambda x, y: Z(1), None),
}


@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_numbers(name):
    check_two(*TWO[name])
