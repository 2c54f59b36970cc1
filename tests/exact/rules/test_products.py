"""Products along dims and sums under a logarithm, forward and backward, against Python's integers."""

import pytest
import torch
from tests.exact.rules.formulas import (
    by_rows,
    check_gradient,
    check_matrix,
    product_of,
    running,
    total,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, nested, sixteenths


def tensor_of(start, *shape):
    numbers = sixteenths(torch.Size(shape).numel(), start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(shape).requires_grad_()
    return x, nested(numbers, *shape)


# name: (torch function of a matrix, its values from rows of residues)
FORWARD = {
    "nansum": (lambda x: x.nansum(1), by_rows(total)),
    "cumprod": (lambda x: x.cumprod(1), by_rows(lambda row: running(row, lambda a, b: a * b))),
    "prod": (torch.prod, lambda rows: product_of(x for row in rows for x in row)),
    "prod of rows": (lambda x: x.prod(1), by_rows(product_of)),
    "logsumexp": (lambda x: x.logsumexp(1), by_rows(O.logsumexp)),
    "logsumexp of all": (lambda x: x.logsumexp((0, 1)), lambda rows: O.logsumexp([x for row in rows for x in row])),
    "cdist": (
        lambda x: torch.cdist(x[:2], x[2:]),
        lambda rows: [
            [O.sqrt(total((x - y) ** 2 for x, y in zip(a, b, strict=True))) for b in rows[2:]] for a in rows[:2]
        ],
    ),
}


@pytest.mark.parametrize("name", FORWARD)
def test_a_function_of_a_matrix(name):
    check_matrix(*FORWARD[name])


def product_slope(row, grads):
    return [grads[0] * product_of(row[:i] + row[i + 1 :]) for i in range(len(row))]


# name: (torch function of a matrix, the gradient of each row from its numbers and its cotangents)
BACKWARD = {
    "prod": (lambda x: x.prod(1, keepdim=True), product_slope),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_the_gradient_of_a_function_of_rows(name):
    check_gradient(*BACKWARD[name])


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_gradient_of_distances_is_that_of_norms(order):
    x, y = (torch.tensor([float(n) for n in sixteenths(12, s)]).double().view(4, 3).requires_grad_() for s in (0, 30))
    weights = torch.arange(1, 17, dtype=torch.float64).view(4, 4)
    with mode() as exact:
        found = torch.autograd.grad((torch.cdist(x, y, p=order) * weights).sum(), (x, y))
        norms = (x[:, None] - y).norm(p=order, dim=-1)
        wanted = torch.autograd.grad((norms * weights).sum(), (x, y))
        same = [torch.equal(exact.digits(a), exact.digits(b)) for a, b in zip(found, wanted, strict=True)]
        unweighted = torch.autograd.grad(torch.cdist(x, y, p=order).sum(), x)[0]
        assert not torch.equal(exact.digits(unweighted), exact.digits(wanted[0]))
    assert same == [True, True]


def test_bilinear_is_the_product_of_three():
    x, y = (torch.tensor([float(n) for n in sixteenths(6, s)]).double().view(2, 3).requires_grad_() for s in (0, 30))
    w = torch.tensor([float(n) for n in sixteenths(36, 60)]).double().view(4, 3, 3).requires_grad_()
    with mode() as exact:
        found, wanted = torch.nn.functional.bilinear(x, y, w), torch.einsum("bi,oij,bj->bo", x, w, y)
        assert torch.equal(exact.digits(found), exact.digits(wanted))
        grads = [torch.autograd.grad(z.square().sum(), (x, y, w)) for z in (found, wanted)]
        assert all(torch.equal(exact.digits(a), exact.digits(b)) for a, b in zip(*grads, strict=True))
        swapped = torch.nn.functional.bilinear(y, x, w)
        assert not torch.equal(exact.digits(swapped), exact.digits(wanted))


def test_distances_are_those_of_the_definition():
    (a, first), (b, second) = tensor_of(0, 3, 4), tensor_of(50, 2, 4)
    with mode() as exact:
        found = exact.digits(torch.cdist(a, b, p=4).pow(4))  # back from the root: log(exp) is the identity
        rooted = exact.digits(torch.cdist(a, b).square())
    sums = [[sum((x - y) ** 2 for x, y in zip(p, q, strict=True)) for q in second] for p in first]
    check(rooted, sums)
    assert found.shape == rooted.shape
    assert Z(sums[0][0]) != Z(sums[0][1])
