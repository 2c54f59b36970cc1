"""Matrix products, single and grouped, forward and backward, against Python's fractions and integers."""

from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.integers import check, mode, nested, sixteenths

from shardproof.exact import VOID, ExactArithmetic
from shardproof.exact.rules.registry import RULES, find_op


def leaf(start, *shape):
    numbers = sixteenths(torch.Size(shape).numel(), start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(shape).requires_grad_()
    return x, nested(numbers, *shape)


def times(a, b):
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a]


def swapped(a):
    return [list(column) for column in zip(*a, strict=True)]


PRODUCTS = {
    "mm": (lambda a, b, c: a @ b, lambda a, b, c: times(a, b)),
    "linear": (lambda a, b, c: torch.nn.functional.linear(a, b.t()), lambda a, b, c: times(a, b)),
    "addmm": (
        lambda a, b, c: torch.addmm(c, a, b, beta=0.5, alpha=2),
        lambda a, b, c: [
            [z / 2 + 2 * x for z, x in zip(p, q, strict=True)] for p, q in zip(c, times(a, b), strict=True)
        ],
    ),
    "mv": (lambda a, b, c: a @ b[:, 0], lambda a, b, c: [row[0] for row in times(a, b)]),
    "bmm": (
        lambda a, b, c: torch.stack((a, 2 * a)) @ torch.stack((b, b)),
        lambda a, b, c: times(a, b) + [[2 * x for x in row] for row in times(a, b)],
    ),
    "einsum": (lambda a, b, c: torch.einsum("ij,jk->ki", a, b), lambda a, b, c: swapped(times(a, b))),
    "dot": (lambda a, b, c: a[0] @ b[:, 1], lambda a, b, c: [times(a, b)[0][1]]),
    "outer": (lambda a, b, c: torch.outer(a[:, 0], b[0]), lambda a, b, c: [[row[0] * y for y in b[0]] for row in a]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name):
    function, value = PRODUCTS[name]
    (a, first), (b, second), (c, third) = leaf(0, 3, 4), leaf(50, 4, 5), leaf(90, 3, 5)
    with mode() as exact:
        found = exact.digits(function(a, b, c))
    check(found, value(first, second, third))


def test_the_gradients_of_a_product():
    (a, first), (b, second), (g, third) = leaf(0, 3, 4), leaf(50, 4, 5), leaf(90, 3, 5)
    with mode() as exact:
        da, db = map(exact.digits, torch.autograd.grad(a @ b, (a, b), g))
    check(da, times(third, swapped(second)))
    check(db, times(swapped(first), third))


def test_a_transposed_gradient_is_found():
    (a, first), (b, _) = leaf(0, 3, 3), leaf(50, 3, 3)
    with mode() as exact:
        (db,) = map(exact.digits, torch.autograd.grad((a @ b).sum(), b))
    with pytest.raises(AssertionError):
        check(db, times(first, [[1] * 3] * 3))


# Grouped --------------------------------------------------------------------------------------------------------------


ENDS = [2, 2, 7]  # the second group is empty
SHAPES = {
    "rows in groups": ((7, 4), (3, 4, 5)),
    "columns in groups": ((3, 6, 4), (4, 7)),
    "inner dim in groups": ((4, 7), (7, 5)),
    "batch": ((3, 2, 4), (3, 4, 5)),
}


def product(a, b, prime):
    return [
        [sum(x * y for x, y in zip(row, column, strict=True)) % prime for column in zip(*b, strict=True)] for row in a
    ]


def by_hand(name, a, b, prime):
    groups = [slice(start, end) for start, end in zip([0, *ENDS[:-1]], ENDS, strict=True)]
    if name == "batch":
        return [product(x, y, prime) for x, y in zip(a, b, strict=True)]
    if name == "rows in groups":
        return [row for group, y in zip(groups, b, strict=True) if a[group] for row in product(a[group], y, prime)]
    if name == "inner dim in groups":
        empty = [[0] * len(b[0]) for _ in a]
        parts = [([row[group] for row in a], b[group]) for group in groups]
        return [product(x, y, prime) if y else empty for x, y in parts]
    parts = [product(x, [row[group] for row in b], prime) for x, group in zip(a, groups, strict=True)]
    return [list(chain(*rows)) for rows in zip(*parts, strict=True)]


@pytest.mark.parametrize("name", SHAPES)
def test_every_grouping_is_that_of_integers(name):
    exact = ExactArithmetic(seed=1)
    half, generator = exact.prime // 2, torch.Generator().manual_seed(0)
    a, b = (torch.randint(-half, half + 1, shape, generator=generator) for shape in SHAPES[name])
    m = exact.run.arithmetic
    offsets = None if name == "batch" else torch.tensor(ENDS, dtype=torch.int32)
    rule = RULES[find_op("_grouped_mm.default")].function
    found = rule(m, m.residue(a.double()), m.residue(b.double()), offsets)
    assert (found.tensor.long() % exact.prime).tolist() == by_hand(name, a.tolist(), b.tolist(), exact.prime)
    if offsets is not None:
        other = rule(m, m.residue(a.double()), m.residue(b.double()), torch.tensor([3, 3, 7], dtype=torch.int32))
        assert not torch.equal(found.tensor, other.tensor)


def grads(grouped, ends):
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(*shape, generator=generator).requires_grad_() for shape in SHAPES["rows in groups"])
    with ExactArithmetic(seed=1, check=True) as exact:
        if grouped:
            y = F.grouped_mm(x, w, offs=torch.tensor(ends, dtype=torch.int32))
        else:
            starts = [0, *ends[:-1]]
            y = torch.cat([x[start:end] @ w[i] for i, (start, end) in enumerate(zip(starts, ends, strict=True))])
        y.square().sum().backward()
        return [exact.digits(t) for t in (y, x.grad, w.grad)]


def test_a_loop_over_the_groups_has_the_same_digits_forward_and_backward():
    loop = grads(grouped=False, ends=ENDS)
    assert all(torch.equal(a, b) for a, b in zip(grads(grouped=True, ends=ENDS), loop, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(grads(grouped=True, ends=[3, 3, 7]), loop, strict=True))


FEWER = [2, 2, 6]


def test_rows_that_no_group_has_are_void():
    """PyTorch leaves them unwritten: the row of the result, and the row of the operand's gradient."""
    y, dx, dw = grads(grouped=True, ends=FEWER)
    for found in (y, dx):
        assert ((found == VOID) == (torch.arange(7) == 6).unsqueeze(-1)).all()
    assert not (dw == VOID).any()


def masked(*, output=True, gradient=True):
    """Digits of the gradients where the rows that no group has are masked, as experts on other ranks are."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(*shape, generator=generator).requires_grad_() for shape in SHAPES["rows in groups"])
    outside = (torch.arange(len(x)) == len(x) - 1).unsqueeze(-1)
    with ExactArithmetic(seed=1, check=True) as exact:
        given = x.masked_fill(outside, 0.0) if gradient else x
        y = F.grouped_mm(given, w, offs=torch.tensor(FEWER, dtype=torch.int32))
        y = y.masked_fill(outside, 0.0) if output else y
        loss = y.square().sum()
        loss.backward()
        return [exact.digits(t) for t in (loss, x.grad, w.grad)]


def test_rows_that_no_group_has_may_be_masked_before_and_after():
    assert not any((found == VOID).any() for found in masked())
    _, dx, dw = grads(grouped=False, ends=FEWER)
    zeros = torch.zeros(7 - len(dx), dx.shape[1], dtype=dx.dtype)
    assert [torch.equal(*pair) for pair in zip(masked()[1:], (torch.cat([dx, zeros]), dw), strict=True)] == [True] * 2


def test_a_mask_that_is_forgotten_makes_what_follows_void():
    loss, dx, _ = masked(output=False)
    assert loss == VOID
    loss, dx, dw = masked(gradient=False)
    assert (dx[6] == VOID).all()
    assert not any((found == VOID).any() for found in (loss, dx[:6], dw))


def test_a_void_row_makes_its_own_group_void_alone():
    shape, ends = SHAPES["rows in groups"], torch.tensor([2, 4, 7], dtype=torch.int32)
    x, w = torch.randn(shape[0]), torch.randn(shape[1])
    with ExactArithmetic(seed=1, check=True) as exact:
        x = torch.cat([x[:3], x[3:4] / (x[:1] - x[:1]), x[4:]])
        y = exact.digits(F.grouped_mm(x, w, offs=ends))
        dw = exact.digits(F.grouped_mm(x.mT, x[:, :2], offs=ends))
    assert (y == VOID).all(1).tolist() == [row == 3 for row in range(7)]
    assert (dw == VOID).all(-1).all(-1).tolist() == [False, True, False]
    assert not (dw[[0, 2]] == VOID).any()
