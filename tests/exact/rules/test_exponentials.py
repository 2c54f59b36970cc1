"""Formulas in E and its inverse, forward and backward, against Python's integers."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.formulas import (
    check_matrix,
    check_one,
    check_two,
    lift,
    softplus,
    tanh,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z


def mish_slope(x):
    t = tanh(softplus(x))
    return t + x * (1 - t * t) * O.sigmoid(x)


# name: (torch function of one tensor, its values, its derivatives)
ONE = {
    "exp": (torch.exp, O.exp, O.exp),
    "exp2": (torch.exp2, lambda x: O.exp(x * lift(math.log(2))), None),
    "expm1": (torch.expm1, lambda x: O.exp(x) - 1, O.exp),
    "log": (torch.log, O.log, lambda x: 1 / x),
    "log of exp": (lambda x: x.exp().log(), lambda x: x, lambda x: Z(1)),
    "log1p": (torch.log1p, lambda x: O.log(1 + x), lambda x: 1 / (1 + x)),
    "log2": (torch.log2, lambda x: O.log(x) / lift(math.log(2)), None),
    "log10": (torch.log10, lambda x: O.log(x) / lift(math.log(10)), None),
    "sigmoid": (torch.sigmoid, O.sigmoid, lambda x: O.sigmoid(x) * (1 - O.sigmoid(x))),
    "silu": (F.silu, lambda x: x * O.sigmoid(x), lambda x: O.sigmoid(x) * (1 + x * (1 - O.sigmoid(x)))),
    "tanh": (torch.tanh, tanh, lambda x: 1 - tanh(x) * tanh(x)),
    "sinh": (torch.sinh, lambda x: (O.exp(x) - 1 / O.exp(x)) / 2, lambda x: (O.exp(x) + 1 / O.exp(x)) / 2),
    "cosh": (torch.cosh, lambda x: (O.exp(x) + 1 / O.exp(x)) / 2, lambda x: (O.exp(x) - 1 / O.exp(x)) / 2),
    "softplus": (F.softplus, softplus, O.sigmoid),
    "softplus beta": (lambda x: F.softplus(x, beta=2), lambda x: softplus(2 * x) / 2, lambda x: O.sigmoid(2 * x)),
    "logsigmoid": (F.logsigmoid, lambda x: -O.log(1 + O.exp(-x)), lambda x: O.sigmoid(-x)),
    "mish": (F.mish, lambda x: x * tanh(softplus(x)), mish_slope),
    "logit": (torch.logit, lambda x: O.log(x / (1 - x)), lambda x: 1 / (x * (1 - x))),
    "entropy": (torch.special.entr, lambda x: -x * O.log(x), None),
}


@pytest.mark.parametrize("name", ONE)
def test_a_function_of_one_number(name):
    check_one(*ONE[name])


# name: (torch function of two tensors, its values, its derivatives by the first and the second)
TWO = {
    "xlogy": (torch.xlogy, lambda x, y: x * O.log(y), lambda x, y: O.log(y), lambda x, y: x / y),
    "logaddexp": (torch.logaddexp, lambda x, y: O.logsumexp([x, y]), None, None),
}


@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_numbers(name):
    check_two(*TWO[name])


# name: (torch function of a matrix, its values from rows of residues)
FORWARD = {
    "glu": (
        lambda x: F.glu(x, dim=0),
        lambda rows: [
            [a * O.sigmoid(b) for a, b in zip(*pair, strict=True)] for pair in zip(rows[:2], rows[2:], strict=True)
        ],
    ),
}


@pytest.mark.parametrize("name", FORWARD)
def test_a_function_of_a_matrix(name):
    check_matrix(*FORWARD[name])
