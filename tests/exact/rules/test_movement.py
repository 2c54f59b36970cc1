"""Movements of elements and their gradients, against Python's lists."""

import pytest
import torch
from tests.exact.rules.formulas import (
    check_one,
)
from tests.exact.rules.integers import Z, check, mode, nested, sixteenths

ROWS, COLUMNS = 3, 6


def leaf(start=0, shape=(ROWS, COLUMNS)):
    numbers = sixteenths(torch.Size(shape).numel(), start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(shape).requires_grad_()
    return x, nested(map(Z, numbers), *shape)


# name: (torch function of a matrix, the places in the flattened matrix that its elements come from; None is a zero)
MOVES = {
    "index": (lambda x: x[torch.tensor([2, 0])], [*range(12, 18), *range(6)]),
    "index by two": (lambda x: x[torch.tensor([2, 0]), torch.tensor([1, 5])], [13, 5]),
    "mask": (lambda x: x[torch.tensor([True, False, True])], [*range(6), *range(12, 18)]),
    "index_select": (lambda x: x.index_select(1, torch.tensor([5, 0])), [5, 0, 11, 6, 17, 12]),
    "gather": (lambda x: x.gather(1, torch.tensor([[1], [0], [5]])), [1, 6, 17]),
    "embedding": (lambda x: torch.nn.functional.embedding(torch.tensor([1, 1]), x), [*range(6, 12)] * 2),
    "take": (lambda x: x.take(torch.tensor([3, 17])), [3, 17]),
    "flip": (lambda x: x.flip(0), [*range(12, 18), *range(6, 12), *range(6)]),
    "roll": (lambda x: x.roll(1, 1), [5, *range(5), 11, *range(6, 11), 17, *range(12, 17)]),
    "repeat": (lambda x: x[:1].repeat(2, 1), [*range(6)] * 2),
    "stack": (lambda x: torch.stack((x[0], x[2])), [*range(6), *range(12, 18)]),
    "cat": (lambda x: torch.cat((x[1:2], x[:1])), [*range(6, 12), *range(6)]),
    "tril": (lambda x: x[:, :3].tril(), [0, None, None, 6, 7, None, 12, 13, 14]),
    "pad": (lambda x: torch.nn.functional.pad(x[:1, :2], (1, 1)), [None, 0, 1, None]),
    "masked fill": (lambda x: x[:1].masked_fill(torch.tensor([[True, False] * 3]), 0), [None, 1, None, 3, None, 5]),
    "where": (lambda x: torch.where(torch.tensor([True, False] * 3), x[0], x[1]), [0, 7, 2, 9, 4, 11]),
    "unfold": (lambda x: x[0].unfold(0, 2, 2), [0, 1, 2, 3, 4, 5]),
    "diagonal": (lambda x: x.diagonal(), [0, 7, 14]),
    "movedim": (lambda x: x[:2].movedim(0, 1), [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]),
    "masked scatter": (lambda x: x[:1].masked_scatter(torch.tensor([[True, False] * 3]), x[1]), [6, 1, 7, 3, 8, 5]),
    "split": (lambda x: x.split(2, 1)[1], [2, 3, 8, 9, 14, 15]),
    "as_strided": (lambda x: x.as_strided((2, 2), (6, 2), 1), [1, 3, 7, 9]),
    "scalar": (lambda x: x[2, 3], [15]),
    "nothing": (lambda x: x[:0], []),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_movement_of_elements_and_its_gradient(name):
    function, places = MOVES[name]
    x, rows = leaf()
    flat = [number for row in rows for number in row]
    with mode() as exact:
        y = function(x)
        found = exact.digits(y)
        slopes = exact.digits(torch.autograd.grad((y * y).sum(), x)[0])
    check(found, [Z(0) if p is None else flat[p] for p in places])
    check(slopes, [2 * flat[p] * places.count(p) for p in range(len(flat))])


# name: (torch function of one tensor, its values, its derivatives)
ONE = {
    "cast": (lambda x: x.to(torch.bfloat16).float(), lambda x: x, lambda x: Z(1)),
}


@pytest.mark.parametrize("name", ONE)
def test_a_function_of_one_number(name):
    check_one(*ONE[name])
