"""Piecewise functions, forward and backward, against the oracles one element at a time."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.formulas import (
    HALF,
    INFINITY,
    at_least,
    check_matrix,
    check_one,
    check_two,
    leaf,
    sign,
    size,
    steps,
    total,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, mode, sixteenths

# name: (torch function of one tensor, its values, its derivatives)
ONE = {
    "relu": (F.relu, lambda x: at_least(x, 0), lambda x: steps(x, [0], [0, 1])),
    "clamp": (
        lambda x: x.clamp(-1, 2),
        lambda x: steps(x, [-1, 2], [-1, x, 2]),
        lambda x: steps(x, [-1, 2], [0, 1, 0]),
    ),
    "clamp from below": (
        lambda x: torch.clamp(x, min=0.5),
        lambda x: at_least(x, 0.5),
        lambda x: steps(x, [0.5], [0, 1]),
    ),
    "clamp from above": (
        lambda x: x.clamp_max(0.5),
        lambda x: -at_least(-x, -0.5),
        lambda x: steps(x, [0.5], [1, 0]),
    ),
    "clamp by nothing": (lambda x: x.clamp(min=-INFINITY, max=torch.finfo(x.dtype).max), lambda x: x, lambda x: Z(1)),
    "clamp whose limits are exchanged": (lambda x: x.clamp(2, -1), lambda x: Z(-1), lambda x: Z(0)),
    "hardtanh": (
        lambda x: F.hardtanh(x, -1, 2),
        lambda x: steps(x, [-1, 2], [-1, x, 2]),
        lambda x: steps(x, [-1, 2], [0, 1, 0]),
    ),
    "relu6": (F.relu6, lambda x: steps(x, [0, 6], [0, x, 6]), lambda x: steps(x, [0, 6], [0, 1, 0])),
    "threshold": (
        lambda x: F.threshold(x, 0.5, -2),
        lambda x: steps(x, [0.5], [-2, x]),
        lambda x: steps(x, [0.5], [0, 1]),
    ),
    "leaky relu": (
        F.leaky_relu,
        lambda x: steps(x, [0], [x / 100, x]),
        lambda x: steps(x, [0], [Z(1) / 100, 1]),
    ),
    "elu": (
        lambda x: F.elu(x, 0.5),
        lambda x: steps(x, [0], [(O.exp(x) - 1) / 2, x]),
        lambda x: steps(x, [0], [O.exp(x) / 2, 1]),
    ),
    "celu": (
        lambda x: F.celu(x, 2.0),
        lambda x: steps(x, [0], [(O.exp(x / 2) - 1) * 2, x]),
        lambda x: steps(x, [0], [O.exp(x / 2), 1]),
    ),
    "hardswish": (
        F.hardswish,
        lambda x: steps(x, [-3, 3], [0, x * (x + 3) / 6, x]),
        lambda x: steps(x, [-3, 3], [0, x / 3 + HALF, 1]),
    ),
    "hardsigmoid": (
        F.hardsigmoid,
        lambda x: steps(x, [-3, 3], [0, (x + 3) / 6, 1]),
        lambda x: steps(x, [-3, 3], [0, Z(1) / 6, 0]),
    ),
    "softshrink": (
        F.softshrink,
        lambda x: steps(x, [-0.5, 0.5], [x + HALF, 0, x - HALF]),
        lambda x: steps(x, [-0.5, 0.5], [1, 0, 1]),
    ),
    "hardshrink": (
        F.hardshrink,
        lambda x: steps(x, [-0.5, 0.5], [x, 0, x]),
        lambda x: steps(x, [-0.5, 0.5], [1, 0, 1]),
    ),
    "abs": (torch.abs, size, sign),
    "sign": (torch.sign, sign, None),
    "logit": (
        lambda x: torch.logit(x, eps=0.25),
        lambda x: steps(x, [0.25, 0.75], [O.log(Z(1) / 3), O.log(x / (1 - x)), O.log(Z(3))]),
        lambda x: steps(x, [0.25, 0.75], [0, 1 / (x * (1 - x)), 0]),
    ),
}


@pytest.mark.parametrize("name", ONE)
def test_a_function_of_one_number(name):
    check_one(*ONE[name])


# name: (torch function of two tensors, its values, its derivatives by the first and the second)
TWO = {
    "prelu": (
        lambda x, y: torch._prelu_kernel(x, y),
        lambda x, y: steps(x, [0], [y * x, x]),
        lambda x, y: steps(x, [0], [y, 1]),
        lambda x, y: steps(x, [0], [x, 0]),
    ),
    "copysign": (
        torch.copysign,
        lambda x, y: steps(y, [0], [-size(x), size(x)]),
        lambda x, y: steps(y, [0], [-size(x), size(x)]) / x,
        lambda x, y: Z(0),
    ),
    "clamp by a tensor": (
        lambda x, y: torch.clamp(x, min=y),
        lambda x, y: max(x, y, key=O.order),
        lambda x, y: Z(int(O.order(x) > O.order(y))),
        lambda x, y: Z(int(O.order(x) < O.order(y))),
    ),
}


@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_numbers(name):
    check_two(*TWO[name])


# name: (torch function of a matrix, its values from rows of residues)
FORWARD = {
    "normalize": (
        lambda x: F.normalize(x, eps=0.5),
        lambda rows: [[x / at_least(O.sqrt(total(y * y for y in row)), 0.5) for x in row] for row in rows],
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
