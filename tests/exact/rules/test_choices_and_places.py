"""Choices by order, and reads and writes at places given by integers, against Python's lists."""

import pytest
import torch
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


def total(numbers):
    return sum(numbers, Z(0))


def product(numbers):
    found = Z(1)
    for x in numbers:
        found *= x
    return found


REDUCES = {
    "sum": total,
    "prod": product,
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
