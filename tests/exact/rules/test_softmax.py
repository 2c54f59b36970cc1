"""Softmax and log-softmax, forward and backward, against Python's integers."""

import pytest
import torch.nn.functional as F
from tests.exact.rules.formulas import (
    by_rows,
    check_gradient,
    check_matrix,
    total,
)
from tests.exact.rules.integers import ORACLES as O


def softmin(row):
    return O.softmax([-x for x in row])


# name: (torch function of a matrix, its values from rows of residues)
FORWARD = {
    "softmax": (lambda x: x.softmax(1), by_rows(O.softmax)),
    "softmin": (lambda x: F.softmin(x, dim=1), by_rows(softmin)),
    "log softmax": (lambda x: x.log_softmax(1), by_rows(lambda row: [x - O.logsumexp(row) for x in row])),
}


@pytest.mark.parametrize("name", FORWARD)
def test_a_function_of_a_matrix(name):
    check_matrix(*FORWARD[name])


def softmax_slope(row, grads):
    y = O.softmax(row)
    inner = total(a * b for a, b in zip(y, grads, strict=True))
    return [a * (g - inner) for a, g in zip(y, grads, strict=True)]


def log_softmax_slope(row, grads):
    return [g - y * total(grads) for g, y in zip(grads, O.softmax(row), strict=True)]


# name: (torch function of a matrix, the gradient of each row from its numbers and its cotangents)
BACKWARD = {
    "softmax": (lambda x: x.softmax(1), softmax_slope),
    "log softmax": (lambda x: x.log_softmax(1), log_softmax_slope),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_the_gradient_of_a_function_of_rows(name):
    check_gradient(*BACKWARD[name])
