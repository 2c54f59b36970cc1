"""Sums and reductions at positions given by integers, pads and folds, against Python's lists."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.formulas import (
    check_matrix,
    product_of,
    total,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, nested, sixteenths

ROWS, COLUMNS = 3, 6


def leaf(start=0, shape=(ROWS, COLUMNS)):
    numbers = sixteenths(torch.Size(shape).numel(), start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(shape).requires_grad_()
    return x, nested(map(Z, numbers), *shape)


INDEX = [[0, 2, 1, 0, 0, 2], [1, 1, 0, 2, 0, 1]]


def scattered(start, rows, others, combine, *, include_self=True):
    """Column by column: what is sent to each place of the first dim, combined with what is there."""
    found = [list(row) for row in rows]
    for column in range(COLUMNS):
        for place in range(ROWS):
            sent = [others[k][column] for k in range(2) if INDEX[k][column] == place]
            own = [rows[place][column]] if include_self or not sent else []
            found[place][column] = combine(own + sent) if sent else rows[place][column]
    return found


REDUCES = {
    "sum": total,
    "prod": product_of,
    "mean": lambda numbers: total(numbers) / len(numbers),
    "amax": O.largest,
    "amin": lambda numbers: min(numbers, key=O.order),
}


@pytest.mark.parametrize("name", REDUCES)
@pytest.mark.parametrize("include_self", [True, False])
def test_scatter_reduce(name, include_self):
    (x, rows), (y, others) = leaf(), leaf(40)
    with mode() as exact:
        found = exact.digits(x.scatter_reduce(0, torch.tensor(INDEX), y, name, include_self=include_self))
    check(found, scattered(0, rows, others, REDUCES[name], include_self=include_self))


@pytest.mark.parametrize("name", ["prod", "mean", "amax", "amin"])
def test_index_reduce(name):
    (x, rows), (y, others) = leaf(), leaf(40)
    with mode() as exact:
        found = exact.digits(x.index_reduce(0, torch.tensor([2, 0, 2]), y, name))
    combine = REDUCES[name]
    wanted = [[combine([rows[0][c], others[1][c]]) for c in range(COLUMNS)], rows[1]]
    wanted.append([combine([rows[2][c], others[0][c], others[2][c]]) for c in range(COLUMNS)])
    check(found, wanted)


def test_a_sum_in_place_of_a_mean_is_found():
    (x, rows), (y, others) = leaf(), leaf(40)
    with mode() as exact:
        found = exact.digits(x.scatter_reduce(0, torch.tensor(INDEX), y, "mean"))
    with pytest.raises(AssertionError):
        check(found, scattered(0, rows, others, total))


@pytest.mark.parametrize("write", ["scatter", "index_copy", "slice", "mask", "index_put", "index_add", "masked_fill"])
def test_a_write_in_place_changes_its_places_alone(write):
    (x, rows), (y, others) = leaf(), leaf(40)
    wanted = [list(row) for row in rows]
    with mode() as exact:
        z = x.clone()
        if write == "scatter":
            z.scatter_(0, torch.zeros(1, COLUMNS, dtype=torch.long), y[:1])
            wanted[0] = others[0]
        elif write == "index_copy":
            z.index_copy_(0, torch.tensor([2]), y[:1])
            wanted[2] = others[0]
        elif write == "slice":
            z[1:, 2:4] = y[1:, 2:4]
            for i in (1, 2):
                wanted[i][2:4] = others[i][2:4]
        elif write == "mask":
            z[torch.tensor([True, False, False])] = 0.5
            wanted[0] = [Z(0.5)] * COLUMNS
        elif write == "index_put":
            z.index_put_((torch.tensor([1, 1]), torch.tensor([0, 0])), y[0, :2], accumulate=True)
            wanted[1][0] = rows[1][0] + others[0][0] + others[0][1]
        elif write == "index_add":
            z.index_add_(0, torch.tensor([1, 1, 0]), y, alpha=2)
            wanted[1] = [a + 2 * (b + c) for a, b, c in zip(rows[1], others[0], others[1], strict=True)]
            wanted[0] = [a + 2 * b for a, b in zip(rows[0], others[2], strict=True)]
        else:
            z.t().masked_fill_(torch.tensor([True, False, False]), -1)
            wanted[0] = [Z(-1)] * COLUMNS
        check(exact.digits(z), wanted)


def test_the_gradient_of_an_embedding_adds_up_what_was_read():
    x, rows = leaf()
    ids = torch.tensor([[0, 2, 0], [2, 2, 1]])
    with mode() as exact:
        y = torch.nn.functional.embedding(ids, x, padding_idx=1)
        found = exact.digits(torch.autograd.grad((y * y).sum(), x)[0])
    counts = [2, 0, 3]
    check(found, [[2 * count * number for number in row] for count, row in zip(counts, rows, strict=True)])


# name: (torch function of a matrix, its values from rows of residues)
FORWARD = {
    "trace": (torch.trace, lambda rows: total(rows[i][i] for i in range(len(rows)))),
}


@pytest.mark.parametrize("name", FORWARD)
def test_a_function_of_a_matrix(name):
    check_matrix(*FORWARD[name])


# Pads and folds -------------------------------------------------------------------------------------------------------


def image(start, *shape):
    numbers = sixteenths(torch.Size(shape).numel(), start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(shape).requires_grad_()
    return x, {place: Z(n) for place, n in zip(product(*map(range, shape)), numbers, strict=True)}


@pytest.mark.parametrize("how", ["reflect", "replicate"])
def test_pads_add_up_what_they_copied(how):
    x, xs = image(0, 1, 1, 4)
    with mode() as exact:
        y = F.pad(x, (2, 3), mode=how)
        found, slopes = exact.digits(y), exact.digits(torch.autograd.grad(y.sum(), x)[0])
    places = (
        [abs(i) if i < 4 else 6 - i for i in range(-2, 7)]
        if how == "reflect"
        else [min(max(i, 0), 3) for i in range(-2, 7)]
    )
    check(found, [xs[0, 0, p] for p in places])
    check(slopes, [Z(places.count(p)) for p in range(4)])


def test_fold_is_the_transpose_of_unfold():
    x, xs = image(0, 1, 1, 4, 4)
    with mode() as exact:
        y = F.unfold(x, 2)
        found, back = exact.digits(y), exact.digits(F.fold(y, (4, 4), 2))
    columns = [[xs[0, 0, i + a, j + b] for i in range(3) for j in range(3)] for a in range(2) for b in range(2)]
    check(found, columns)
    meets = [(1 if i in {0, 3} else 2) * (1 if j in {0, 3} else 2) for i in range(4) for j in range(4)]
    check(back, [v * m for v, m in zip(xs.values(), meets, strict=True)])
