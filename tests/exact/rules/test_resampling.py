"""Adaptive pools and interpolation against Python's loops over the definition, in fractions."""

from fractions import Fraction
from itertools import product
from math import ceil

import torch
import torch.nn.functional as F
from tests.exact.rules.integers import Z, check, mode, sixteenths


def leaf(start, *shape):
    numbers = sixteenths(torch.Size(shape).numel(), start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(shape).requires_grad_()
    return x, {place: Z(n) for place, n in zip(product(*map(range, shape)), numbers, strict=True)}


def test_adaptive_average_pool():
    x, xs = leaf(0, 1, 1, 5, 7)
    with mode() as exact:
        y = F.adaptive_avg_pool2d(x, (2, 3))
        found, slopes = exact.digits(y), exact.digits(torch.autograd.grad(y.sum(), x)[0])
    wanted, dx = [], dict.fromkeys(xs, Z(0))
    for i, j in product(range(2), range(3)):
        rows, columns = range(i * 5 // 2, ceil((i + 1) * 5 / 2)), range(j * 7 // 3, ceil((j + 1) * 7 / 3))
        count = len(rows) * len(columns)
        wanted.append(sum((xs[0, 0, a, b] for a in rows for b in columns), Z(0)) / count)
        for a, b in product(rows, columns):
            dx[0, 0, a, b] += Z(1) / count
    check(found, wanted)
    check(slopes, list(dx.values()))


def test_linear_interpolation():
    x, xs = leaf(0, 1, 1, 5)
    with mode() as exact:
        y = F.interpolate(x, size=8, mode="linear", align_corners=False)
        found, slopes = exact.digits(y), exact.digits(torch.autograd.grad(y.sum(), x)[0])
    wanted, dx = [], dict.fromkeys(xs, Z(0))
    for i in range(8):
        at = min(max((Fraction(i) + Fraction(1, 2)) * Fraction(5, 8) - Fraction(1, 2), Fraction(0)), Fraction(4))
        low, part = int(at), at - int(at)
        high = min(low + 1, 4)
        wanted.append(xs[0, 0, low] * (1 - part) + xs[0, 0, high] * part)
        dx[0, 0, low] += 1 - part
        dx[0, 0, high] += part
    check(found, wanted)
    check(slopes, list(dx.values()))


def test_nearest_interpolation_in_two_dims():
    x, xs = leaf(0, 1, 1, 2, 3)
    with mode() as exact:
        found = exact.digits(F.interpolate(x, size=(4, 7), mode="nearest"))
    check(found, [xs[0, 0, i * 2 // 4, j * 3 // 7] for i in range(4) for j in range(7)])
