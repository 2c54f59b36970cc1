"""Selections by the keyed order and comparisons, against Python's lists."""

import pytest
import torch
from tests.exact.rules.formulas import (
    check_two,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, nested, sixteenths

ROWS, COLUMNS = 3, 6


def leaf(start=0, shape=(ROWS, COLUMNS)):
    numbers = sixteenths(torch.Size(shape).numel(), start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(shape).requires_grad_()
    return x, nested(map(Z, numbers), *shape)


def in_order(row):
    """The places of a row's elements in the keyed order, first to last."""
    return sorted(range(len(row)), key=lambda i: O.order(row[i]))


# name: (values and indices of a matrix's rows, the places that each row's order gives)
CHOICES = {
    "max": (lambda x: x.max(1), lambda order: [order[-1]]),
    "min": (lambda x: x.min(1), lambda order: [order[0]]),
    "sort": (lambda x: x.sort(1), lambda order: order),
    "sort descending": (lambda x: x.sort(1, descending=True), lambda order: order[::-1]),
    "topk": (lambda x: x.topk(2, 1), lambda order: order[:-3:-1]),
    "topk of the least": (lambda x: x.topk(2, 1, largest=False), lambda order: order[:2]),
    "kthvalue": (lambda x: x.kthvalue(3, 1), lambda order: [order[2]]),
    "median": (lambda x: x.median(1), lambda order: [order[2]]),
    "argmax": (lambda x: (x.amax(1), x.argmax(1)), lambda order: [order[-1]]),
    "argmin": (lambda x: (x.amin(1), x.argmin(1)), lambda order: [order[0]]),
    "argsort": (lambda x: (x.sort(1)[0], x.argsort(1)), lambda order: order),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_by_order_and_its_gradient(name):
    function, places = CHOICES[name]
    x, rows = leaf()
    with mode() as exact:
        values, indices = function(x)
        found = exact.digits(values)
        slopes = exact.digits(torch.autograd.grad(values.sum(), x)[0])
    chosen = [places(in_order(row)) for row in rows]
    assert indices.reshape(-1).tolist() == [i for row in chosen for i in row]
    check(found, [[row[i] for i in at] for row, at in zip(rows, chosen, strict=True)])
    check(slopes, [[Z(i in at) for i in range(COLUMNS)] for at in chosen])


def test_the_order_is_not_that_of_the_representatives():
    x, rows = leaf()
    with mode():
        indices = x.max(1).indices.tolist()
    assert indices == [in_order(row)[-1] for row in rows]
    assert indices != [max(range(COLUMNS), key=lambda i, row=row: row[i].balanced) for row in rows]


COMPARISONS = {
    "lt": (torch.lt, lambda a, b: a < b),
    "le": (torch.le, lambda a, b: a <= b),
    "gt": (torch.gt, lambda a, b: a > b),
    "ge": (torch.ge, lambda a, b: a >= b),
    "eq": (torch.eq, lambda a, b: a == b),
    "ne": (torch.ne, lambda a, b: a != b),
}


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_with_a_tensor_a_number_and_itself(name):
    function, compare = COMPARISONS[name]
    (x, rows), (y, others) = leaf(), leaf(40)
    with mode():
        pairs = function(x, y)
        half = function(x, 0.5)
        itself = function(x, x)
    flat = [(a, b) for r, s in zip(rows, others, strict=True) for a, b in zip(r, s, strict=True)]
    assert pairs.reshape(-1).tolist() == [compare(O.order(a), O.order(b)) for a, b in flat]
    assert half.reshape(-1).tolist() == [compare(O.order(a), O.order(Z(0.5))) for a, _ in flat]
    assert itself.reshape(-1).tolist() == [compare(0, 0)] * len(flat)


# name: (torch function of two tensors, its values, its derivatives by the first and the second)
TWO = {
    "maximum": (
        torch.maximum,
        lambda x, y: O.largest([x, y]),
        lambda x, y: Z(O.order(x) > O.order(y)),
        lambda x, y: Z(O.order(y) > O.order(x)),
    ),
    "minimum": (
        torch.minimum,
        lambda x, y: min(x, y, key=O.order),
        lambda x, y: Z(O.order(x) < O.order(y)),
        lambda x, y: Z(O.order(y) < O.order(x)),
    ),
}


@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_numbers(name):
    check_two(*TWO[name])
