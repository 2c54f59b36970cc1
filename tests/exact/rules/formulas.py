"""Formulas in Python's integers that several tests share, and the comparison of a rule with its formula."""

import math

import torch
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, nested, sixteenths

HALF = Z(1) / 2
INFINITY = math.inf
ROWS, COLUMNS = 4, 5
EPS = Z(1) / 100000
COUNT = 24


def steps(x, limits, values):
    """The function of x with these values before, between and after the limits."""
    found = Z(values[0])
    for limit, before, after in zip(limits, values, values[1:], strict=False):
        found += O.gate(x - limit) * (Z(after) - Z(before))
    return found


def at_least(x, low):
    return steps(x, [low], [low, x])


def size(x):
    return steps(x, [0], [-x, x])


def sign(x):
    return steps(x, [0], [-1, 1])


def smooth_l1(d, beta=1):
    half = Z(beta) / 2
    return steps(d, [-beta, beta], [-d - half, d * d / (2 * Z(beta)), d - half])


def smooth_l1_slope(d, beta=1):
    return steps(d, [-beta, beta], [-1, d / beta, 1])


def huber(d, delta):
    return steps(d, [-delta, delta], [(-d - Z(delta) / 2) * delta, d * d / 2, (d - Z(delta) / 2) * delta])


def huber_slope(d, delta):
    return steps(d, [-delta, delta], [-delta, d, delta])


def lift(number):
    """The residue of a generic constant, which has no meaning but to be the same each time."""
    return Z(mode().arithmetic.constant(number))


def softplus(x):
    e = O.exp(x)
    return (x + O.log((1 + e) * (1 + e) / e)) / 2


def tanh(x):
    return 2 * O.sigmoid(2 * x) - 1


def total(numbers):
    return sum(numbers, Z(0))


def mean(numbers):
    numbers = list(numbers)
    return total(numbers) / len(numbers)


def variance(row, correction=1):
    center = mean(row)
    return total((x - center) * (x - center) for x in row) / (len(row) - correction)


def by_rows(function):
    return lambda rows: [function(row) for row in rows]


def running(row, combine):
    found = [row[0]]
    for x in row[1:]:
        found.append(combine(found[-1], x))
    return found


def product_of(numbers):
    found = Z(1)
    for x in numbers:
        found *= x
    return found


def sizes(row):
    return [size(x) for x in row]


# A rule and its formula ----------------------------------------------------------------------------------------------


def leaf(numbers):
    return torch.tensor([float(x) for x in numbers], dtype=torch.float64, requires_grad=True)


def matrix(start=0):
    numbers = sixteenths(ROWS * COLUMNS, start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(ROWS, COLUMNS).requires_grad_()
    return x, nested(map(Z, numbers), ROWS, COLUMNS)


def check_one(function, value, slope):
    """A function of one tensor: each element's value, and its gradient where `slope` is given."""
    numbers, weights = sixteenths(COUNT), sixteenths(COUNT, 100)
    x, g = leaf(numbers), leaf(weights)
    with mode() as exact:
        y = function(x)
        check(exact.digits(y), [value(Z(a)) for a in numbers])
        if slope is not None:
            (dx,) = torch.autograd.grad(y, x, g)
            check(exact.digits(dx), [Z(w) * slope(Z(a)) for a, w in zip(numbers, weights, strict=True)])


def check_two(function, value, *slopes):
    """A function of two tensors: each element's value, and its gradient for each operand whose slope is given."""
    first, second, weights = sixteenths(COUNT), sixteenths(COUNT, 50), sixteenths(COUNT, 100)
    # A target is no variable where PyTorch has no derivative for it.
    x, y, g = leaf(first), leaf(second).requires_grad_(slopes[1] is not None), leaf(weights)
    pairs = [(Z(a), Z(b)) for a, b in zip(first, second, strict=True)]
    with mode() as exact:
        z = function(x, y)
        check(exact.digits(z), [value(a, b) for a, b in pairs])
        for operand, slope in zip((x, y), slopes, strict=True):
            if slope is not None:
                (found,) = torch.autograd.grad(z, operand, g, retain_graph=True)
                check(exact.digits(found), [Z(w) * slope(a, b) for (a, b), w in zip(pairs, weights, strict=True)])


def check_matrix(function, value):
    """A function of a matrix of ROWS x COLUMNS."""
    x, rows = matrix()
    with mode() as exact:
        found = exact.digits(function(x))
    wanted = value(rows)
    check(found, wanted if isinstance(wanted, list) else [wanted])


def check_gradient(function, slope):
    """The gradient of a function of each row, from the row's numbers and cotangents."""
    x, rows = matrix()
    grads, weights = matrix(60)
    with mode() as exact:
        y = function(x)
        (dx,) = torch.autograd.grad(y, x, grads[:, : y.shape[1]])
        found = exact.digits(dx)
    check(found, [slope(row, g) for row, g in zip(rows, weights, strict=True)])
