"""Sums, means and variances, forward and backward, against Python's integers."""

import pytest
import torch
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
