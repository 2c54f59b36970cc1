"""EmbeddingBag against Python's integers, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.formulas import total
from tests.exact.rules.integers import Z, check, mode, nested, sixteenths

from shardproof.exact import UnsupportedOpError

ROWS, WIDTH = 6, 3
INDICES, OFFSETS = [4, 0, 4, 2, 5, 1, 4], [0, 2, 2, 5]  # the second bag is empty
BAGS = [[0, 1], [], [2, 3, 4], [5, 6]]


def inputs(start, *shape):
    numbers = sixteenths(torch.Size(shape).numel(), start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(shape).requires_grad_()
    return x, nested(map(Z, numbers), *shape)


def sum_of_bags(table, weights, *, reduce="sum", padding=None):
    found = []
    for bag in BAGS:
        kept = [i for i in bag if INDICES[i] != padding]
        size = Z(max(len(kept), 1)) if reduce == "mean" else Z(1)
        found.append([total(table[INDICES[i]][c] * weights[i] for i in kept) / size for c in range(WIDTH)])
    return found


def gradient_of_table(grad, weights, *, reduce="sum", padding=None):
    rows = [[Z(0)] * WIDTH for _ in range(ROWS)]
    for bag, g in zip(BAGS, grad, strict=True):
        kept = [i for i in bag if INDICES[i] != padding]
        size = Z(max(len(kept), 1)) if reduce == "mean" else Z(1)
        for i in kept:
            rows[INDICES[i]] = [a + b * weights[i] / size for a, b in zip(rows[INDICES[i]], g, strict=True)]
    return rows


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("padding", [None, 4])
def test_bags_are_added_up(reduce, padding):
    (table, rows), (g, grad) = inputs(0, ROWS, WIDTH), inputs(40, len(BAGS), WIDTH)
    with mode() as exact:
        y = F.embedding_bag(torch.tensor(INDICES), table, torch.tensor(OFFSETS), mode=reduce, padding_idx=padding)
        (dx,) = torch.autograd.grad(y, table, g)
        found = exact.digits(y), exact.digits(dx)
    ones = [Z(1)] * len(INDICES)
    check(found[0], sum_of_bags(rows, ones, reduce=reduce, padding=padding))
    check(found[1], gradient_of_table(grad, ones, reduce=reduce, padding=padding))
    with pytest.raises(AssertionError):  # padding counted, or left out
        check(found[0], sum_of_bags(rows, ones, reduce=reduce, padding=None if padding else 4))


def test_samples_have_weights_with_gradients_of_their_own():
    (table, rows), (w, weights), (g, grad) = inputs(0, ROWS, WIDTH), inputs(60, 7), inputs(40, len(BAGS), WIDTH)
    with mode() as exact:
        y = F.embedding_bag(torch.tensor(INDICES), table, torch.tensor(OFFSETS), mode="sum", per_sample_weights=w)
        dx, dw = torch.autograd.grad(y, (table, w), g)
        found = [exact.digits(z) for z in (y, dx, dw)]
    bag_of = {i: b for b, bag in enumerate(BAGS) for i in bag}
    check(found[0], sum_of_bags(rows, weights))
    check(found[1], gradient_of_table(grad, weights))
    check(found[2], [total(a * b for a, b in zip(rows[INDICES[i]], grad[bag_of[i]], strict=True)) for i in range(7)])


def test_a_bag_is_the_sum_of_its_embeddings():
    table, _ = inputs(0, ROWS, WIDTH)
    indices = torch.tensor([[0, 3], [5, 5]])
    with mode() as exact:
        found, wanted = F.embedding_bag(indices, table, mode="mean"), F.embedding(indices, table).mean(1)
        assert torch.equal(exact.digits(found), exact.digits(wanted))
        assert not torch.equal(exact.digits(found), exact.digits(F.embedding(indices, table).sum(1)))


def test_the_largest_rows_are_refused_with_the_reason():
    table, _ = inputs(0, ROWS, WIDTH)
    with mode(), pytest.raises(UnsupportedOpError, match="largest rows of a bag"):
        F.embedding_bag(torch.tensor([[0, 3]]), table, mode="max")
