"""Losses, forward and backward, against Python's integers."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.formulas import (
    COLUMNS,
    INFINITY,
    ROWS,
    check_two,
    huber,
    huber_slope,
    matrix,
    mean,
    sign,
    size,
    smooth_l1,
    smooth_l1_slope,
    softplus,
    total,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, flat, mode, nested, sixteenths

from shardproof.exact import SymbolError

# name: (torch function of two tensors, its values, its derivatives by the first and the second)
TWO = {
    "smooth l1": (
        lambda x, y: F.smooth_l1_loss(x, y, reduction="none"),
        lambda x, y: smooth_l1(x - y),
        lambda x, y: smooth_l1_slope(x - y),
        lambda x, y: -smooth_l1_slope(x - y),
    ),
    "huber": (
        lambda x, y: F.huber_loss(x, y, delta=0.5, reduction="none"),
        lambda x, y: huber(x - y, 0.5),
        lambda x, y: huber_slope(x - y, 0.5),
        None,
    ),
    "l1": (
        lambda x, y: F.l1_loss(x, y, reduction="none"),
        lambda x, y: size(x - y),
        lambda x, y: sign(x - y),
        lambda x, y: -sign(x - y),
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
        lambda x, y: softplus(x) - x * y,
        lambda x, y: O.sigmoid(x) - y,
        None,
    ),
    "soft margin": (
        lambda x, y: F.soft_margin_loss(x, y, reduction="none"),
        lambda x, y: softplus(-x * y),
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
    "l1": (F.l1_loss, lambda x, y: size(x - y)),
    "smooth l1": (F.smooth_l1_loss, lambda x, y: smooth_l1(x - y)),
    "huber": (F.huber_loss, lambda x, y: huber(x - y, 1)),
    "kl": (F.kl_div, lambda x, y: y * (O.log(y) - x)),
    "bce": (F.binary_cross_entropy, lambda x, y: -(y * O.log(x) + (1 - y) * O.log(1 - x))),
    "bce with logits": (
        F.binary_cross_entropy_with_logits,
        lambda x, y: softplus(x) - x * y,
    ),
    "soft margin": (F.soft_margin_loss, lambda x, y: softplus(-x * y)),
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


# Gradients ------------------------------------------------------------------------------------------------------------

REDUCTIONS = ("mean", "sum", "none")


def part_of(reduction, count):
    """What the gradient of one loss is multiplied by, beside its cotangent."""
    return 1 / Z(count) if reduction == "mean" else Z(1)


def gradient(loss, x, cotangents):
    """Of the sum of losses times cotangents where losses stay apart; of seven times the loss where it is one number."""
    weight = cotangents if loss.ndim else torch.tensor(7.0, dtype=torch.float64)
    return torch.autograd.grad(loss, x, weight)[0]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_of_negative_log_likelihood_has_the_class_weights(reduction, weighted):
    """-w[t] at the target, over the sum of the w[t] for the mean; zero where the target is ignored."""
    x, _ = matrix()
    weight = torch.tensor([1, 2, 3, 0.5, 0.25], dtype=torch.float64) if weighted else None
    cotangents = [Z(n) for n in (2, 3, 5, 11)]
    with mode() as exact:
        loss = F.nll_loss(x, torch.tensor(TARGETS), weight=weight, reduction=reduction)
        found = exact.digits(gradient(loss, x, torch.tensor([2.0, 3, 5, 11], dtype=torch.float64)))
    own = WEIGHTS if weighted else [Z(1)] * COLUMNS
    size = total(own[t] for t in TARGETS if t >= 0)
    scale = [c if reduction == "none" else 7 / size if reduction == "mean" else Z(7) for c in cotangents]
    wanted = [[-own[t] * s if c == t else Z(0) for c in range(COLUMNS)] for t, s in zip(TARGETS, scale, strict=True)]
    check(found, wanted)
    if weighted:
        with pytest.raises(AssertionError):  # the control: the weights dropped
            check(
                found, [[-s if c == t else Z(0) for c in range(COLUMNS)] for t, s in zip(TARGETS, scale, strict=True)]
            )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_negative_log_likelihood_over_positions_and_its_gradient(reduction, weighted):
    numbers, targets, own = sixteenths(2 * 3 * 4), [[0, 2, 1, 1], [2, -100, 0, 0]], [Z(3), Z(5), Z(1) / 2]
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(2, 3, 4).requires_grad_()
    weight = torch.tensor([3, 5, 0.5], dtype=torch.float64) if weighted else None
    with mode() as exact:
        loss = F.nll_loss(x, torch.tensor(targets), weight=weight, reduction=reduction)
        found = exact.digits(loss)
        slopes = exact.digits(gradient(loss, x, torch.full((2, 4), 7.0, dtype=torch.float64)))
    cube, own = nested(map(Z, numbers), 2, 3, 4), own if weighted else [Z(1)] * 3
    losses = [[-own[t] * cube[n][t][i] if t >= 0 else Z(0) for i, t in enumerate(targets[n])] for n in range(2)]
    size = total(own[t] for row in targets for t in row if t >= 0)
    whole = total(loss for row in losses for loss in row)
    check(found, losses if reduction == "none" else [whole / size if reduction == "mean" else whole])
    scale = 7 / size if reduction == "mean" else Z(7)
    check(slopes, [[[-own[c] * scale if c == t else Z(0) for t in targets[n]] for c in range(3)] for n in range(2)])


def test_the_sum_of_the_weights_is_the_second_result():
    x, _ = matrix()
    weight = torch.tensor([1, 2, 3, 0.5, 0.25], dtype=torch.float64)
    for reduction, weights in ((0, Z(0)), (1, Z(1.75)), (2, Z(1.75))):
        with mode() as exact:
            _, found = torch.ops.aten.nll_loss_forward(x, torch.tensor(TARGETS), weight, reduction, -100)
            check(exact.digits(found), [weights])


def test_logarithms_with_masks_in_them_are_refused():
    x, _ = matrix()
    masked = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    masked[2, 0] = True
    with mode(), pytest.raises(SymbolError, match="nll_loss_forward"):
        F.nll_loss(x.masked_fill(masked, -INFINITY), torch.tensor(TARGETS), reduction="sum")


def test_a_single_row_without_a_batch():
    x, rows = matrix()
    with mode() as exact:
        loss = F.nll_loss(x[0], torch.tensor(3))
        found, slope = exact.digits(loss), exact.digits(torch.autograd.grad(loss, x)[0])
    check(found, [-rows[0][3]])
    check(slope, [[Z(-1) if (i, c) == (0, 3) else Z(0) for c in range(COLUMNS)] for i in range(ROWS)])


# name: (loss, its value, its derivative by the first)
PAIRS = {
    "mse": (F.mse_loss, lambda x, y: (x - y) ** 2, lambda x, y: 2 * (x - y)),
    "smooth l1": (
        F.smooth_l1_loss,
        lambda x, y: smooth_l1(x - y),
        lambda x, y: smooth_l1_slope(x - y),
    ),
    "smooth l1, beta 2": (
        lambda x, y, **options: F.smooth_l1_loss(x, y, beta=2.0, **options),
        lambda x, y: smooth_l1(x - y, 2),
        lambda x, y: smooth_l1_slope(x - y, 2),
    ),
    "huber": (
        lambda x, y, **options: F.huber_loss(x, y, delta=0.5, **options),
        lambda x, y: huber(x - y, 0.5),
        lambda x, y: huber_slope(x - y, 0.5),
    ),
    "bce": (
        F.binary_cross_entropy,
        lambda x, y: -(y * O.log(x) + (1 - y) * O.log(1 - x)),
        lambda x, y: (x - y) / (x * (1 - x)),
    ),
    "bce with logits": (
        F.binary_cross_entropy_with_logits,
        lambda x, y: y * softplus(-x) + (1 - y) * softplus(x),
        lambda x, y: O.sigmoid(x) - y,
    ),
    "soft margin": (
        F.soft_margin_loss,
        lambda x, y: softplus(-x * y),
        lambda x, y: -y * O.sigmoid(-x * y),
    ),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", PAIRS)
def test_a_loss_and_its_gradient_in_every_reduction(name, reduction):
    function, value, slope = PAIRS[name]
    (x, first), (y, second), (g, cotangents) = matrix(), matrix(80), matrix(40)
    with mode() as exact:
        loss = function(x, y.detach(), reduction=reduction)
        found, slopes = exact.digits(loss), exact.digits(gradient(loss, x, g))
    losses = [value(a, b) for a, b in zip(flat(first), flat(second), strict=True)]
    check(found, losses if reduction == "none" else [mean(losses) if reduction == "mean" else total(losses)])
    part = part_of(reduction, ROWS * COLUMNS)
    scale = flat(cotangents) if reduction == "none" else [Z(7)] * (ROWS * COLUMNS)
    check(slopes, [slope(a, b) * c * part for a, b, c in zip(flat(first), flat(second), scale, strict=True)])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_cross_entropies_with_weights(reduction):
    (x, first), (y, second), (w, weights), (g, cotangents) = matrix(), matrix(80), matrix(20), matrix(40)
    options = {"weight": w.detach(), "reduction": reduction}
    positive = torch.tensor([2, 0.5, 3, 1, 4], dtype=torch.float64)
    factors = [Z(2), Z(0.5), Z(3), Z(1), Z(4)] * ROWS
    with mode() as exact:
        plain = F.binary_cross_entropy(x, y.detach(), **options)
        logits = F.binary_cross_entropy_with_logits(x, y.detach(), pos_weight=positive, **options)
        found = [exact.digits(plain), exact.digits(gradient(plain, x, g)), exact.digits(logits)]
    rows = list(zip(flat(first), flat(second), flat(weights), factors, strict=True))
    losses = [-w * (y * O.log(x) + (1 - y) * O.log(1 - x)) for x, y, w, _ in rows]
    positives = [w * (p * y * softplus(-x) + (1 - y) * softplus(x)) for x, y, w, p in rows]

    def reduced(numbers):
        return numbers if reduction == "none" else [mean(numbers) if reduction == "mean" else total(numbers)]

    check(found[0], reduced(losses))
    part = part_of(reduction, ROWS * COLUMNS)
    scale = flat(cotangents) if reduction == "none" else [Z(7)] * (ROWS * COLUMNS)
    check(found[1], [w * (x - y) / (x * (1 - x)) * c * part for (x, y, w, _), c in zip(rows, scale, strict=True)])
    check(found[2], reduced(positives))
    with pytest.raises(AssertionError):  # the control: weights dropped
        check(found[0], reduced([-(y * O.log(x) + (1 - y) * O.log(1 - x)) for x, y, _, _ in rows]))


@pytest.mark.parametrize(
    "name", ["mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss", "binary_cross_entropy"]
)
def test_the_mean_is_taken_where_the_op_is_not_told(name):
    (x, _), (y, _) = matrix(), matrix(80)
    with mode() as exact:
        op = getattr(torch.ops.aten, name)
        assert torch.equal(exact.digits(op(x, y.detach())), exact.digits(getattr(F, name)(x, y.detach())))
        assert exact.digits(op(x, y.detach())).ndim == 0


def test_an_ignored_target_of_a_single_class():
    x = torch.tensor([[0.5], [3.0]], dtype=torch.float64).requires_grad_()
    with mode() as exact:
        loss = F.nll_loss(x, torch.tensor([0, -100]))
        check(exact.digits(loss), [-Z(0.5)])
        check(exact.digits(torch.autograd.grad(loss, x)[0]), [Z(-1), Z(0)])
