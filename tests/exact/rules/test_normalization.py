"""Layer, RMS, group and batch norm, forward and backward, against Python's integers and forms by hand."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.formulas import (
    COLUMNS,
    EPS,
    by_rows,
    check_gradient,
    check_matrix,
    matrix,
    mean,
    total,
    variance,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode
from torch import nn


def normalized(row, eps=EPS):
    center = mean(row)
    root = O.sqrt(variance(row, 0) + eps)
    return [(x - center) / root for x in row]


def by_rms(row):
    root = O.sqrt(mean(x * x for x in row) + EPS)
    return [x / root for x in row]


# name: (torch function of a matrix, its values from rows of residues)
FORWARD = {
    "layer norm": (lambda x: F.layer_norm(x, (COLUMNS,)), by_rows(normalized)),
    "rms norm": (lambda x: F.rms_norm(x, (COLUMNS,), eps=1e-5), by_rows(by_rms)),
    "batch norm": (
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda rows: list(map(list, zip(*(normalized(c) for c in zip(*rows, strict=True)), strict=True))),
    ),
}


@pytest.mark.parametrize("name", FORWARD)
def test_a_function_of_a_matrix(name):
    check_matrix(*FORWARD[name])


def norm_slope(row, grads, *, center, eps=EPS):
    """By hand from y = (x - mean) / r, r = sqrt(mean((x - mean)**2) + eps), the chain rule step by step."""
    shift = mean(row) if center else Z(0)
    centred = [x - shift for x in row]
    root = O.sqrt(mean(c * c for c in centred) + eps)
    inner = total(g * c for g, c in zip(grads, centred, strict=True)) / root**3
    slopes = [g / root - c * inner / len(row) for g, c in zip(grads, centred, strict=True)]
    return [s - mean(slopes) for s in slopes] if center else slopes


# name: (torch function of a matrix, the gradient of each row from its numbers and its cotangents)
BACKWARD = {
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
}


@pytest.mark.parametrize("name", BACKWARD)
def test_the_gradient_of_a_function_of_rows(name):
    check_gradient(*BACKWARD[name])


def test_two_norms_of_one_tensor_differ_where_their_formulas_do():
    x, rows = matrix()
    with mode() as exact:
        found = exact.digits(F.layer_norm(x, (COLUMNS,)))
    with pytest.raises(AssertionError):
        check(found, by_rows(by_rms)(rows))


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(first, second):
    return [torch.equal(a, b) for a, b in zip(first, second, strict=True)]


def test_batch_norm_in_training_and_after():
    x = drawn(3, 6, 4)
    with mode() as exact:
        norm = nn.BatchNorm1d(4, momentum=0.25, eps=1e-3)
        y = norm(x)
        mean, var = x.mean(0), x.var(0, correction=0)
        assert torch.equal(exact.digits(y), exact.digits((x - mean) * torch.rsqrt(var + 1e-3)))
        assert torch.equal(exact.digits(norm.running_mean), exact.digits(mean * 0.25))
        assert torch.equal(exact.digits(norm.running_var), exact.digits(0.75 + x.var(0) * 0.25))
        norm.eval()
        after = (x - norm.running_mean) * torch.rsqrt(norm.running_var + 1e-3)
        assert torch.equal(exact.digits(norm(x)), exact.digits(after))
        assert not torch.equal(exact.digits(norm(x)), exact.digits(y))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm_by_hand(groups):
    x, w, b = drawn(3, 2, 4, 3).requires_grad_(), drawn(4, 4).requires_grad_(), drawn(5, 4).requires_grad_()

    def by_hand(x, w, b):
        flat = x.reshape(2, groups, -1)
        centred = flat - flat.mean(-1, keepdim=True)
        y = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-5)
        return y.reshape(x.shape) * w[:, None] + b[:, None]

    found = []
    with mode() as exact:
        for function in (lambda *args: F.group_norm(args[0], groups, *args[1:]), by_hand):
            y = function(x, w, b)
            found.append([exact.digits(t) for t in (y, *torch.autograd.grad((y * y).sum(), (x, w, b)))])
    assert all(same(*found))
