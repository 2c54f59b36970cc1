"""Piecewise functions, forward and backward, against the oracles one element at a time."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.formulas import (
    INFINITY,
    at_least,
    at_least_slope,
    check_matrix,
    check_one,
    check_two,
    leaf,
    total,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, mode, sixteenths

# name: (torch function of one tensor, its values, its derivatives)
ONE = {
    "relu": (F.relu, lambda x: at_least(x, 0), lambda x: at_least_slope(x, 0)),
    "clamp": (
        lambda x: x.clamp(-1, 2),
        lambda x: -at_least(-at_least(x, -1), -2),
        lambda x: at_least_slope(-at_least(x, -1), -2) * at_least_slope(x, -1),
    ),
    "clamp from below": (
        lambda x: torch.clamp(x, min=0.5),
        lambda x: at_least(x, 0.5),
        lambda x: at_least_slope(x, 0.5),
    ),
    "clamp from above": (
        lambda x: x.clamp_max(0.5),
        lambda x: -at_least(-x, -0.5),
        lambda x: at_least_slope(-x, -0.5),
    ),
    "clamp by nothing": (lambda x: x.clamp(min=-INFINITY, max=torch.finfo(x.dtype).max), lambda x: x, lambda x: Z(1)),
    "hardtanh": (
        lambda x: F.hardtanh(x, -1, 2),
        lambda x: -at_least(-at_least(x, -1), -2),
        lambda x: at_least_slope(-at_least(x, -1), -2) * at_least_slope(x, -1),
    ),
    "relu6": (
        F.relu6,
        lambda x: -at_least(-at_least(x, 0), -6),
        lambda x: at_least_slope(-at_least(x, 0), -6) * at_least_slope(x, 0),
    ),
    "leaky relu": (
        F.leaky_relu,
        lambda x: O.any("leaky_relu " + str(Fraction(0.01)), x),
        lambda x: O.any("leaky_relu " + str(Fraction(0.01)) + "'", x),
    ),
    "elu": (F.elu, lambda x: O.any("elu 1 1 1", x), lambda x: O.any("elu 1 1 1'", x)),
    "hardswish": (F.hardswish, lambda x: O.any("hardswish", x), lambda x: O.any("hardswish'", x)),
    "hardsigmoid": (F.hardsigmoid, lambda x: O.any("hardsigmoid", x), lambda x: O.any("hardsigmoid'", x)),
    "softshrink": (F.softshrink, lambda x: O.odd("softshrink 1/2", x), lambda x: O.even("softshrink 1/2'", x)),
    "hardshrink": (F.hardshrink, lambda x: O.odd("hardshrink 1/2", x), lambda x: O.even("hardshrink 1/2'", x)),
    "abs": (torch.abs, lambda x: O.even("abs", x), lambda x: O.odd("sign", x)),
}


@pytest.mark.parametrize("name", ONE)
def test_a_function_of_one_number(name):
    check_one(*ONE[name])


# name: (torch function of two tensors, its values, its derivatives by the first and the second)
TWO = {
    "prelu": (
        lambda x, y: torch._prelu_kernel(x, y),
        lambda x, y: at_least(x, 0) - y * at_least(-x, 0),
        lambda x, y: at_least_slope(x, 0) + y * at_least_slope(-x, 0),
        lambda x, y: -at_least(-x, 0),
    ),
}


@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_numbers(name):
    check_two(*TWO[name])


# name: (torch function of a matrix, its values from rows of residues)
FORWARD = {
    "normalize": (
        lambda x: F.normalize(x, eps=0.0),
        lambda rows: [
            [x / O.any("clamp", O.sqrt(total(y * y for y in row)) + O.any("limit of clamp", 0)) for x in row]
            for row in rows
        ],
    ),
}


@pytest.mark.parametrize("name", FORWARD)
def test_a_function_of_a_matrix(name):
    check_matrix(*FORWARD[name])


def test_limits_in_a_tensor_mean_what_the_scalars_mean():
    x = leaf(sixteenths(6))
    with mode() as exact:
        same = [
            x.clamp(min=0),
            torch.maximum(x, torch.zeros(6)),
            F.relu(x),
            torch.clamp(x, min=torch.zeros(6)),
            F.threshold(x, 0, 0),
        ]
        assert all(torch.equal(exact.digits(y), exact.digits(same[0])) for y in same)
        assert not torch.equal(exact.digits(x.clamp(min=0.5)), exact.digits(same[0]))
