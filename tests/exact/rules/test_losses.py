"""Losses, forward and backward, against Python's integers."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.formulas import (
    COLUMNS,
    ROWS,
    check_two,
    matrix,
    mean,
    total,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, nested, sixteenths

# name: (torch function of two tensors, its values, its derivatives by the first and the second)
TWO = {
    "smooth l1": (
        lambda x, y: F.smooth_l1_loss(x, y, reduction="none"),
        lambda x, y: O.even("smooth_l1_loss 1", x - y),
        lambda x, y: O.odd("smooth_l1_loss 1'", x - y),
        lambda x, y: -O.odd("smooth_l1_loss 1'", x - y),
    ),
    "huber": (
        lambda x, y: F.huber_loss(x, y, delta=0.5, reduction="none"),
        lambda x, y: O.even("huber_loss 1/2", x - y),
        lambda x, y: O.odd("huber_loss 1/2'", x - y),
        None,
    ),
    "l1": (
        lambda x, y: F.l1_loss(x, y, reduction="none"),
        lambda x, y: O.even("abs", x - y),
        lambda x, y: O.odd("sign", x - y),
        lambda x, y: -O.odd("sign", x - y),
    ),
    "mse": (
        lambda x, y: F.mse_loss(x, y, reduction="none"),
        lambda x, y: (x - y) * (x - y),
        lambda x, y: 2 * (x - y),
        lambda x, y: 2 * (y - x),
    ),
    "bce": (
        lambda x, y: F.binary_cross_entropy(x, y, reduction="none"),
        lambda x, y: -(y * O.log(x) + (1 - y) * O.log(1 - x)),
        lambda x, y: (x - y) / (x * (1 - x)),
        None,
    ),
    "bce with logits": (
        lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
        lambda x, y: -(y * O.log(O.sigmoid(x)) + (1 - y) * O.log(1 - O.sigmoid(x))),
        lambda x, y: O.sigmoid(x) - y,
        None,
    ),
    "soft margin": (
        lambda x, y: F.soft_margin_loss(x, y, reduction="none"),
        lambda x, y: O.log(1 + O.exp(-x * y)),
        lambda x, y: -y * O.sigmoid(-x * y),
        None,
    ),
    "kl": (lambda x, y: F.kl_div(x, y, reduction="none"), lambda x, y: y * (O.log(y) - x), lambda x, y: -y, None),
}


@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_numbers(name):
    check_two(*TWO[name])


# Cross-entropy --------------------------------------------------------------------------------------------------------


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


def test_nll_over_places():
    numbers = sixteenths(2 * 3 * 4)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(2, 3, 4).requires_grad_()
    target = torch.tensor([[0, 2, 1, 1], [2, -100, 0, 0]])
    with mode() as exact:
        found = exact.digits(F.nll_loss(x, target))
    cube = nested(map(Z, numbers), 2, 3, 4)
    picked = [cube[n][t][i] for n in range(2) for i, t in enumerate(target[n].tolist()) if t >= 0]
    check(found, [-mean(picked)])


# Means and sums -------------------------------------------------------------------------------------------------------


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
