"""Pools over windows against Python's loops over the definition."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, sixteenths


def leaf(start, *shape):
    numbers = sixteenths(torch.Size(shape).numel(), start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(shape).requires_grad_()
    return x, {place: Z(n) for place, n in zip(product(*map(range, shape)), numbers, strict=True)}


@pytest.mark.parametrize("count_padding", [True, False])
def test_average_pool(count_padding):
    x, xs = leaf(0, 1, 1, 5, 6)
    with mode() as exact:
        y = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=count_padding)
        found = exact.digits(y)
        slopes = exact.digits(torch.autograd.grad(y.sum(), x)[0])
    wanted, dx = [], dict.fromkeys(xs, Z(0))
    for i, j in product(range(3), range(3)):
        inside = [
            (0, 0, a, b)
            for a, b in product(range(2 * i - 1, 2 * i + 2), range(2 * j - 1, 2 * j + 2))
            if (0, 0, a, b) in xs
        ]
        count = 9 if count_padding else len(inside)
        wanted.append(sum((xs[p] for p in inside), Z(0)) / count)
        for p in inside:
            dx[p] += Z(1) / count
    check(found, wanted)
    check(slopes, list(dx.values()))


def test_max_pool_chooses_by_the_keyed_order():
    x, xs = leaf(0, 1, 1, 4, 6)
    with mode() as exact:
        y = F.max_pool2d(x, 2)
        found, slopes = exact.digits(y), exact.digits(torch.autograd.grad(y.sum(), x)[0])
    windows = [[(0, 0, 2 * i + a, 2 * j + b) for a in range(2) for b in range(2)] for i in range(2) for j in range(3)]
    chosen = [max(window, key=lambda p: O.order(xs[p])) for window in windows]
    check(found, [xs[p] for p in chosen])
    check(slopes, [Z(p in chosen) for p in xs])
