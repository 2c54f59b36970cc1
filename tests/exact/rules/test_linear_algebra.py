"""Linear systems, inverses and determinants against Python's fractions."""

from fractions import Fraction
from itertools import permutations

import pytest
import torch
from tests.exact.rules.integers import check, mode, nested, sixteenths


def leaf(start, *shape):
    numbers = sixteenths(torch.Size(shape).numel(), start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(shape).requires_grad_()
    return x, nested(numbers, *shape)


def times(a, b):
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a]


def swapped(a):
    return [list(column) for column in zip(*a, strict=True)]


def inverted(a):
    """Gauss and Jordan in fractions."""
    n = len(a)
    rows = [list(row) + [Fraction(i == j) for j in range(n)] for i, row in enumerate(a)]
    for k in range(n):
        pivot = next(i for i in range(k, n) if rows[i][k] != 0)
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [x / rows[k][k] for x in rows[k]]
        for i in range(n):
            if i != k:
                rows[i] = [x - rows[i][k] * y for x, y in zip(rows[i], rows[k], strict=True)]
    return [row[n:] for row in rows]


def determinant(a):
    """Leibniz's sum over permutations."""
    total = Fraction(0)
    for order in permutations(range(len(a))):
        sign = (-1) ** sum(order[i] > order[j] for i in range(len(a)) for j in range(i + 1, len(a)))
        term = Fraction(sign)
        for i, j in enumerate(order):
            term *= a[i][j]
        total += term
    return total


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("left", [True, False])
def test_triangular_systems(upper, unit, left):
    (a, first), (b, second) = leaf(0, 3, 3), leaf(50, 3, 3)
    triangle = [
        [
            x if (j > i if upper else j < i) else (Fraction(1) if unit else x) if i == j else Fraction(0)
            for j, x in enumerate(row)
        ]
        for i, row in enumerate(first)
    ]
    with mode() as exact:
        x = torch.linalg.solve_triangular(a, b, upper=upper, unitriangular=unit, left=left)
        found, slope = exact.digits(x), exact.digits(torch.autograd.grad(x.sum(), b)[0])
    inverse = inverted(triangle)
    check(found, times(inverse, second) if left else times(second, inverse))
    ones = [[Fraction(1)] * 3] * 3
    check(slope, times(swapped(inverse), ones) if left else times(ones, swapped(inverse)))


@pytest.mark.parametrize("zero_pivot", [False, True])
def test_inverse_determinant_and_solution(zero_pivot):
    (a, first), (b, second) = leaf(0, 3, 3), leaf(50, 3, 2)
    if zero_pivot:
        with torch.no_grad():
            a[0, 0] = 0.0
        first[0][0] = Fraction(0)
    with mode() as exact:
        inverse, solution, volume = torch.linalg.inv(a), torch.linalg.solve(a, b), torch.linalg.det(a)
        slopes = exact.digits(torch.autograd.grad(volume, a)[0])
        back = exact.digits(torch.autograd.grad(solution.sum(), b)[0])
        found = [exact.digits(x) for x in (inverse, solution, volume)]
    wanted = inverted(first)
    check(found[0], wanted)
    check(found[1], times(wanted, second))
    check(found[2], [determinant(first)])
    check(slopes, [[determinant(first) * x for x in row] for row in swapped(wanted)])
    check(back, times(swapped(wanted), [[Fraction(1)] * 2] * 3))


def test_a_factorization_multiplies_to_its_matrix():
    a, rows = leaf(0, 4, 4)
    with mode() as exact:
        p, l, u = torch.linalg.lu(a)
        found = exact.digits(p @ l @ u)
        assert exact.digits(l).triu(1).count_nonzero() == 0
        assert exact.digits(u).tril(-1).count_nonzero() == 0
    check(found, rows)


def test_a_singular_matrix_voids_the_trial():
    a = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    with mode() as exact:
        inverse = torch.linalg.inv(a)
        assert exact.bound(inverse).void
        assert not exact.bound(torch.linalg.inv(a + torch.eye(2))).void
