"""Sums, softmaxes, norms and losses, forward and backward, against Python's integers over nested lists."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, nested, sixteenths

ROWS, COLUMNS = 4, 5
EPS = Z(1) / 100000
INFINITY = math.inf


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


def product(numbers):
    found = Z(1)
    for x in numbers:
        found *= x
    return found


def normalized(row, eps=EPS):
    center = mean(row)
    root = O.sqrt(variance(row, 0) + eps)
    return [(x - center) / root for x in row]


def by_rms(row):
    root = O.sqrt(mean(x * x for x in row) + EPS)
    return [x / root for x in row]


def sizes(row):
    return [O.even("abs", x) for x in row]


def softmin(row):
    return O.softmax([-x for x in row])


# name: (torch function of a matrix, its values from rows of residues)
FORWARD = {
    "sum": (torch.sum, lambda rows: total(x for row in rows for x in row)),
    "sum of rows": (lambda x: x.sum(1), by_rows(total)),
    "mean": (torch.mean, lambda rows: mean(x for row in rows for x in row)),
    "mean of rows": (lambda x: x.mean(-1, keepdim=True), by_rows(mean)),
    "nansum": (lambda x: x.nansum(1), by_rows(total)),
    "cumsum": (lambda x: x.cumsum(1), by_rows(lambda row: running(row, lambda a, b: a + b))),
    "cumprod": (lambda x: x.cumprod(1), by_rows(lambda row: running(row, lambda a, b: a * b))),
    "prod": (torch.prod, lambda rows: product(x for row in rows for x in row)),
    "prod of rows": (lambda x: x.prod(1), by_rows(product)),
    "var": (lambda x: x.var(1), by_rows(variance)),
    "var without correction": (lambda x: x.var(1, correction=0), by_rows(lambda row: variance(row, 0))),
    "std": (lambda x: x.std(1), by_rows(lambda row: O.sqrt(variance(row)))),
    "norm": (torch.linalg.vector_norm, lambda rows: O.sqrt(total(x * x for row in rows for x in row))),
    "norm of rows": (lambda x: x.norm(dim=1), by_rows(lambda row: O.sqrt(total(x * x for x in row)))),
    "norm of order 1": (lambda x: x.norm(p=1, dim=1), by_rows(lambda row: total(sizes(row)))),
    "norm of order 0": (lambda x: torch.linalg.vector_norm(x, 0, dim=1), by_rows(lambda row: Z(len(row)))),
    "norm of order 3": (
        lambda x: x.norm(p=3, dim=1),
        by_rows(lambda row: O.exp(O.log(total(s**3 for s in sizes(row))) * (Z(1) / 3))),
    ),
    "norm of order 4": (
        lambda x: x.norm(p=4, dim=1),
        by_rows(lambda row: O.exp(O.log(total(x**4 for x in row)) * (Z(1) / 4))),
    ),
    "largest size": (lambda x: x.norm(p=INFINITY, dim=1), by_rows(lambda row: O.largest(sizes(row)))),
    "least size": (
        lambda x: torch.linalg.vector_norm(x, -INFINITY, dim=1),
        by_rows(lambda row: min(sizes(row), key=O.order)),
    ),
    "logsumexp": (lambda x: x.logsumexp(1), by_rows(O.logsumexp)),
    "logsumexp of all": (lambda x: x.logsumexp((0, 1)), lambda rows: O.logsumexp([x for row in rows for x in row])),
    "softmax": (lambda x: x.softmax(1), by_rows(O.softmax)),
    "softmin": (lambda x: F.softmin(x, dim=1), by_rows(softmin)),
    "log softmax": (lambda x: x.log_softmax(1), by_rows(lambda row: [x - O.logsumexp(row) for x in row])),
    "layer norm": (lambda x: F.layer_norm(x, (COLUMNS,)), by_rows(normalized)),
    "rms norm": (lambda x: F.rms_norm(x, (COLUMNS,), eps=1e-5), by_rows(by_rms)),
    "batch norm": (
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda rows: list(map(list, zip(*(normalized(c) for c in zip(*rows, strict=True)), strict=True))),
    ),
    "glu": (
        lambda x: F.glu(x, dim=0),
        lambda rows: [
            [a * O.sigmoid(b) for a, b in zip(*pair, strict=True)] for pair in zip(rows[:2], rows[2:], strict=True)
        ],
    ),
    "normalize": (
        lambda x: F.normalize(x, eps=0.0),
        lambda rows: [
            [x / O.any("clamp", O.sqrt(total(y * y for y in row)) + O.any("limit of clamp", 0)) for x in row]
            for row in rows
        ],
    ),
    "cdist": (
        lambda x: torch.cdist(x[:2], x[2:]),
        lambda rows: [
            [O.sqrt(total((x - y) ** 2 for x, y in zip(a, b, strict=True))) for b in rows[2:]] for a in rows[:2]
        ],
    ),
    "trace": (torch.trace, lambda rows: total(rows[i][i] for i in range(ROWS))),
}


def matrix(start=0):
    numbers = sixteenths(ROWS * COLUMNS, start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(ROWS, COLUMNS).requires_grad_()
    return x, nested(map(Z, numbers), ROWS, COLUMNS)


@pytest.mark.parametrize("name", FORWARD)
def test_a_function_of_a_matrix(name):
    function, value = FORWARD[name]
    x, rows = matrix()
    with mode() as exact:
        found = exact.digits(function(x))
    wanted = value(rows)
    check(found, wanted if isinstance(wanted, list) else [wanted])


def softmax_slope(row, grads):
    y = O.softmax(row)
    inner = total(a * b for a, b in zip(y, grads, strict=True))
    return [a * (g - inner) for a, g in zip(y, grads, strict=True)]


def log_softmax_slope(row, grads):
    return [g - y * total(grads) for g, y in zip(grads, O.softmax(row), strict=True)]


def norm_slope(row, grads, *, center, eps=EPS):
    """By hand from y = (x - mean) / r, r = sqrt(mean((x - mean)**2) + eps), the chain rule step by step."""
    shift = mean(row) if center else Z(0)
    centred = [x - shift for x in row]
    root = O.sqrt(mean(c * c for c in centred) + eps)
    inner = total(g * c for g, c in zip(grads, centred, strict=True)) / root**3
    slopes = [g / root - c * inner / len(row) for g, c in zip(grads, centred, strict=True)]
    return [s - mean(slopes) for s in slopes] if center else slopes


def product_slope(row, grads):
    return [grads[0] * product(row[:i] + row[i + 1 :]) for i in range(len(row))]


def tail_sums(_row, grads):
    return [total(grads[i:]) for i in range(len(grads))]


# name: (torch function of a matrix, the gradient of each row from its numbers and its cotangents)
BACKWARD = {
    "softmax": (lambda x: x.softmax(1), softmax_slope),
    "log softmax": (lambda x: x.log_softmax(1), log_softmax_slope),
    "layer norm": (lambda x: F.layer_norm(x, (COLUMNS,)), lambda row, g: norm_slope(row, g, center=True)),
    "rms norm": (lambda x: F.rms_norm(x, (COLUMNS,), eps=1e-5), lambda row, g: norm_slope(row, g, center=False)),
    "rms norm by hand": (
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
        lambda row, g: norm_slope(row, g, center=False),
    ),
    "rms norm by power": (
        lambda x: x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).pow(-0.5),
        lambda row, g: norm_slope(row, g, center=False),
    ),
    "cumsum": (lambda x: x.cumsum(1), tail_sums),
    "mean": (lambda x: x.mean(1, keepdim=True), lambda row, g: [g[0] / len(row)] * len(row)),
    "prod": (lambda x: x.prod(1, keepdim=True), product_slope),
    "var": (
        lambda x: x.var(1, keepdim=True),
        lambda row, g: [g[0] * 2 * (x - mean(row)) / (len(row) - 1) for x in row],
    ),
    "std": (
        lambda x: x.std(1, keepdim=True),
        lambda row, g: [g[0] * (x - mean(row)) / (len(row) - 1) / O.sqrt(variance(row)) for x in row],
    ),
    "norm": (
        lambda x: x.norm(dim=1, keepdim=True),
        lambda row, g: [g[0] * x / O.sqrt(total(y * y for y in row)) for x in row],
    ),
    "norm of order 1": (
        lambda x: x.norm(p=1, dim=1, keepdim=True),
        lambda row, g: [g[0] * O.odd("sign", x) for x in row],
    ),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_the_gradient_of_a_function_of_rows(name):
    function, slope = BACKWARD[name]
    x, rows = matrix()
    grads, weights = matrix(60)
    with mode() as exact:
        y = function(x)
        (dx,) = torch.autograd.grad(y, x, grads[:, : y.shape[1]])
        found = exact.digits(dx)
    check(found, [slope(row, g) for row, g in zip(rows, weights, strict=True)])


def test_two_norms_of_one_tensor_differ_where_their_formulas_do():
    x, rows = matrix()
    with mode() as exact:
        found = exact.digits(F.layer_norm(x, (COLUMNS,)))
    with pytest.raises(AssertionError):
        check(found, by_rows(by_rms)(rows))


# Losses ---------------------------------------------------------------------------------------------------------------

TARGETS = [3, 0, -100, 4]
WEIGHTS = [Z(1), Z(2), Z(3), Z(1) / 2, Z(1) / 4]


def cross_entropy(rows, *, weights=None, smoothing=0, reduce="mean"):
    """Per kept row: -(1 - s) * w[t] * log p[t] - s / C * sum over c of w[c] * log p[c]; over the sum of the w[t]."""
    weights = weights or [Z(1)] * COLUMNS
    losses, size = [], Z(0)
    for row, target in zip(rows, TARGETS, strict=True):
        if target < 0:
            losses.append(Z(0))
            continue
        logs = [x - O.logsumexp(row) for x in row]
        spread = total(w * y for w, y in zip(weights, logs, strict=True)) * Z(smoothing) / COLUMNS
        losses.append(-(Z(1 - smoothing) * weights[target] * logs[target]) - spread)
        size += weights[target]
    return losses if reduce == "none" else [total(losses) / size if reduce == "mean" else total(losses)]


@pytest.mark.parametrize("reduce", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.125])
def test_cross_entropy(reduce, weighted, smoothing):
    x, rows = matrix()
    weight = torch.tensor([1, 2, 3, 0.5, 0.25], dtype=torch.float64) if weighted else None
    with mode() as exact:
        loss = F.cross_entropy(x, torch.tensor(TARGETS), weight=weight, label_smoothing=smoothing, reduction=reduce)
        found = exact.digits(loss)
    check(found, cross_entropy(rows, weights=WEIGHTS if weighted else None, smoothing=smoothing, reduce=reduce))


def test_the_gradient_of_cross_entropy():
    x, rows = matrix()
    with mode() as exact:
        F.cross_entropy(x, torch.tensor(TARGETS)).backward()
        found = exact.digits(x.grad)
    kept = sum(t >= 0 for t in TARGETS)
    wanted = [
        [(p - (c == t)) / kept if t >= 0 else Z(0) for c, p in enumerate(O.softmax(row))]
        for row, t in zip(rows, TARGETS, strict=True)
    ]
    check(found, wanted)


def test_an_ignored_target_is_not_counted():
    x, rows = matrix()
    with mode() as exact:
        found = exact.digits(F.cross_entropy(x, torch.tensor(TARGETS)))
    with pytest.raises(AssertionError):
        check(found, [total(cross_entropy(rows, reduce="none")) / ROWS])


MEANS = {
    "mse": (F.mse_loss, lambda x, y: (x - y) ** 2),
    "l1": (F.l1_loss, lambda x, y: O.even("abs", x - y)),
    "smooth l1": (F.smooth_l1_loss, lambda x, y: O.even("smooth_l1_loss 1", x - y)),
    "huber": (F.huber_loss, lambda x, y: O.even("huber_loss 1", x - y)),
    "kl": (F.kl_div, lambda x, y: y * (O.log(y) - x)),
    "bce": (F.binary_cross_entropy, lambda x, y: -(y * O.log(x) + (1 - y) * O.log(1 - x))),
    "bce with logits": (
        F.binary_cross_entropy_with_logits,
        lambda x, y: -(y * O.log(O.sigmoid(x)) + (1 - y) * O.log(O.sigmoid(-x))),
    ),
    "soft margin": (F.soft_margin_loss, lambda x, y: O.log(1 + O.exp(-x * y))),
}


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_of_pairs(name, reduction):
    function, value = MEANS[name]
    (x, first), (y, second) = matrix(), matrix(80)
    with mode() as exact:
        found = exact.digits(function(x, y.detach(), reduction=reduction))
    losses = [value(a, b) for r, s in zip(first, second, strict=True) for a, b in zip(r, s, strict=True)]
    check(found, [mean(losses) if reduction == "mean" else total(losses)])


def test_nll_over_places():
    numbers = sixteenths(2 * 3 * 4)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(2, 3, 4).requires_grad_()
    target = torch.tensor([[0, 2, 1, 1], [2, -100, 0, 0]])
    with mode() as exact:
        found = exact.digits(F.nll_loss(x, target))
    cube = nested(map(Z, numbers), 2, 3, 4)
    picked = [cube[n][t][i] for n in range(2) for i, t in enumerate(target[n].tolist()) if t >= 0]
    check(found, [-mean(picked)])
