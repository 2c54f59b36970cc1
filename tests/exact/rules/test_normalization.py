"""Layer, RMS, group and batch norm, forward and backward, against Python's integers and forms by hand."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.algebra.residues import PRIME, M, modulo, residue
from tests.exact.algebra.residues import drawn as drawn_residues
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
from tests.exact.rules.integers import Z, check, mode, sixteenths
from torch import nn

from shardproof.exact import ExactArithmetic
from shardproof.exact.rules.registry import RULES, find_op


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


# With weights, biases, several dims -----------------------------------------------------------------------------------


def digits_of(function, *inputs):
    """The result and the gradients of the sum of its squares."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    with mode() as exact:
        y = function(*leaves)
        weights = torch.arange(1.0, y.numel() + 1).view(y.shape)
        gradients = torch.autograd.grad((y * y * weights).sum(), leaves)
        return [exact.digits(t) for t in (y, *gradients)]


def normalized_by_hand(x, dims, *, eps, center=True):
    centred = x - x.mean(dims, keepdim=True) if center else x
    return centred * torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3)])
@pytest.mark.parametrize("given", [0, 1, 2])
def test_layer_norm_over_any_last_dims_with_and_without_weight_and_bias(shape, given):
    inputs = [drawn(1, 2, 4, 3), drawn(2, *shape), drawn(3, *shape)][: 1 + given]
    dims = tuple(range(-len(shape), 0))

    def fused(x, w=None, b=None):
        return F.layer_norm(x, shape, w, b, eps=0.25)

    def by_hand(x, w=1, b=0):
        return normalized_by_hand(x, dims, eps=0.25) * w + b

    assert all(same(digits_of(fused, *inputs), digits_of(by_hand, *inputs)))
    wrong = digits_of(lambda x, *more: by_hand(x * 2, *more), *inputs)
    assert not same(digits_of(fused, *inputs), wrong)[0]


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("eps", [0.25, None])
def test_rms_norm_over_any_last_dims_with_and_without_weight(shape, weighted, eps):
    inputs = [drawn(1, 2, 4, 3).double(), drawn(2, *shape).double()][: 1 + weighted]
    dims = tuple(range(-len(shape), 0))

    def fused(x, w=None):
        return F.rms_norm(x, shape, w, eps=eps)

    def by_hand(x, w=1):
        own = torch.finfo(torch.float64).eps if eps is None else eps
        return normalized_by_hand(x, dims, eps=own, center=False) * w

    assert all(same(digits_of(fused, *inputs), digits_of(by_hand, *inputs)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 2), (2, 4, 3, 2)])
@pytest.mark.parametrize("given", [0, 1, 2])
def test_batch_norm_and_its_backward(training, shape, given):
    inputs = [drawn(1, *shape), drawn(2, 4), drawn(3, 4)][: 1 + given]
    mean, var = drawn(4, 4), drawn(5, 4)
    over, by_channel = (0, *range(2, len(shape))), (1, 4, *(1,) * (len(shape) - 2))

    def fused(x, w=None, b=None):
        return F.batch_norm(x, mean.clone(), var.clone(), w, b, training=training, eps=0.25)

    def by_hand(x, w=None, b=None):
        if training:
            y = normalized_by_hand(x, over, eps=0.25)
        else:
            y = (x - mean.view(by_channel)) * torch.rsqrt(var + 0.25).view(by_channel)
        y = y if w is None else y * w.view(by_channel)
        return y if b is None else y + b.view(by_channel)

    assert all(same(digits_of(fused, *inputs), digits_of(by_hand, *inputs)))
    twice = digits_of(lambda x, *more: by_hand(x, *more) * 2, *inputs)
    assert not any(same(digits_of(fused, *inputs), twice))


@pytest.mark.parametrize("given", [0, 1, 2])
@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 2, 3)])
def test_group_norm_with_and_without_weight_and_bias(given, shape):
    inputs = [drawn(1, *shape), drawn(2, 6), drawn(3, 6)][: 1 + given]
    by_channel = (1, 6, *(1,) * (len(shape) - 2))

    def fused(x, w=None, b=None):
        return F.group_norm(x, 3, w, b, eps=0.25)

    def by_hand(x, w=None, b=None):
        y = normalized_by_hand(x.reshape(2, 3, -1), -1, eps=0.25).reshape(shape)
        y = y if w is None else y * w.view(by_channel)
        return y if b is None else y + b.view(by_channel)

    assert all(same(digits_of(fused, *inputs), digits_of(by_hand, *inputs)))


def test_the_statistics_are_results_too():
    x, w = drawn(1, 4, 3), drawn(2, 3)
    with mode() as exact:
        rsqrt = torch.rsqrt(x.var(1, correction=0, keepdim=True) + 0.25)
        _, mean, rstd = torch.native_layer_norm(x, (3,), w, None, 0.25)
        assert torch.equal(exact.digits(mean), exact.digits(x.mean(1, keepdim=True)))
        assert torch.equal(exact.digits(rstd), exact.digits(rsqrt))
        _, rms = torch.ops.aten._fused_rms_norm(x, (3,), w, 0.25)
        assert torch.equal(exact.digits(rms), exact.digits(torch.rsqrt(x.square().mean(1, keepdim=True) + 0.25)))
        _, mean, rstd = torch.native_group_norm(x.view(2, 6, 1), None, None, 2, 6, 1, 2, 0.25)
        assert torch.equal(exact.digits(mean), exact.digits(x.view(2, 2, 3).mean(2)))
        assert torch.equal(exact.digits(rstd), exact.digits(rsqrt.view(2, 2)))


MASKS = [[True, False, False], [False, True, False], [False, False, True], [False] * 3, [True] * 3]


@pytest.mark.parametrize("mask", MASKS)
def test_a_backward_gives_the_gradients_that_are_asked_for_and_no_others(mask):
    grad, x, w, b = drawn(1, 2, 4, 3), drawn(2, 2, 4, 3), drawn(3, 4), drawn(4, 4)
    with mode() as exact:

        def asked(op, *args, n=3):
            found = op(*args, mask[:n])
            whole = op(*args, [True] * n)
            for want, one, every in zip(mask, found, whole, strict=False):
                assert (one is not None) is want
                assert one is None or torch.equal(exact.digits(one), exact.digits(every))

        t = x.mT.contiguous()
        _, mean, rstd = torch.native_layer_norm(t, (4,), w, b, 0.25)
        asked(torch.ops.aten.native_layer_norm_backward, grad.mT, t, (4,), mean, rstd, w, b)
        _, rstd = torch.ops.aten._fused_rms_norm(t, (4,), w, 0.25)
        asked(torch.ops.aten._fused_rms_norm_backward, grad.mT, t, (4,), rstd, w, n=2)
        _, mean, rstd = torch.native_group_norm(x, w, b, 2, 4, 3, 2, 0.25)
        asked(torch.ops.aten.native_group_norm_backward, grad, x, mean, rstd, w, 2, 4, 3, 2)
        mean, rstd = x.mean((0, 2)), torch.rsqrt(x.var((0, 2), correction=0) + 0.25)
        asked(torch.ops.aten.native_batch_norm_backward, grad, x, w, None, None, mean, rstd, True, 0.25)


def test_without_a_weight_or_bias_there_is_no_gradient_for_one():
    grad, x = drawn(1, 2, 4), drawn(2, 2, 4)
    with mode():
        _, mean, rstd = torch.native_layer_norm(x, (4,), None, None, 0.25)
        found = torch.ops.aten.native_layer_norm_backward(grad, x, (4,), mean, rstd, None, None, [True] * 3)
        assert [t is None for t in found] == [False, True, True]
        _, rstd = torch.ops.aten._fused_rms_norm(x, (4,), None, 0.25)
        found = torch.ops.aten._fused_rms_norm_backward(grad, x, (4,), rstd, None, [True] * 2)
        assert [t is None for t in found] == [False, True]


# PyTorch takes `rms_norm` apart on a CPU; the fused ops are what it calls elsewhere.


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("eps", [0.25, None])
def test_the_fused_rms_norm_and_its_backward_are_the_form_by_hand(shape, weighted, eps):
    leaves = [drawn(1, 2, 4, 3).double().requires_grad_(), drawn(2, *shape).double().requires_grad_()][: 1 + weighted]
    x, w = leaves[0], leaves[1] if weighted else None
    grad, dims = drawn(3, 2, 4, 3).double(), tuple(range(-len(shape), 0))
    own = torch.finfo(torch.float64).eps if eps is None else eps
    with mode() as exact:
        y, rstd = torch.ops.aten._fused_rms_norm(x.detach(), shape, None if w is None else w.detach(), eps)
        found = torch.ops.aten._fused_rms_norm_backward(grad, x.detach(), shape, rstd, w, [True, True])
        by_hand = normalized_by_hand(x, dims, eps=own, center=False) * (1 if w is None else w)
        wanted = torch.autograd.grad(by_hand, leaves, grad)
        assert torch.equal(exact.digits(y), exact.digits(by_hand))
        assert torch.equal(exact.digits(rstd), exact.digits(torch.rsqrt(x.square().mean(dims, keepdim=True) + own)))
        assert torch.equal(exact.digits(found[0]), exact.digits(wanted[0]))
        assert w is None or torch.equal(exact.digits(found[1]), exact.digits(wanted[1]))
        assert not torch.equal(exact.digits(y), exact.digits(by_hand * 2))


@pytest.mark.parametrize("dim", [0, 1])
def test_weight_norm_is_the_direction_times_the_size(dim):
    v = torch.tensor([float(n) for n in sixteenths(12)], dtype=torch.float64).view(3, 4).requires_grad_()
    shape = (3, 1) if dim == 0 else (1, 4)
    g = torch.tensor([float(n) for n in sixteenths(max(shape), 30)], dtype=torch.float64).view(shape).requires_grad_()
    weights = torch.arange(1, 13, dtype=torch.float64).view(3, 4)
    with mode() as exact:
        found = torch._weight_norm(v, g, dim)
        wanted = v * (g / v.norm(dim=1 - dim, keepdim=True))
        assert torch.equal(exact.digits(found), exact.digits(wanted))
        grads = [torch.autograd.grad((w * weights).sum(), (v, g)) for w in (found, wanted)]
        assert all(torch.equal(exact.digits(a), exact.digits(b)) for a, b in zip(*grads, strict=True))
        other = torch.autograd.grad(torch._weight_norm(v, g, dim).sum(), (v, g))
        assert not torch.equal(exact.digits(other[0]), exact.digits(grads[0][0]))


# What a GPU has a kernel for, by the rules themselves -----------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("eps", [0.25, None])
def test_the_fused_rms_norm_and_its_backward(weighted, eps):
    """y r = x w with r = sqrt(mean(x**2) + eps), element by element; the gradients by the chain rule."""
    x, grad = residue(drawn_residues(2, 3, 4, seed=1)), residue(drawn_residues(2, 3, 4, seed=2))
    weight = residue(drawn_residues(3, 4, seed=3)) if weighted else None
    y, rstd = RULES[find_op("_fused_rms_norm.default")].function(M, x, (3, 4), weight, eps)
    w = 1 if weight is None else weight.tensor
    mean_square = modulo(modulo(x.tensor**2).sum((1, 2), keepdim=True)) * pow(12, -1, PRIME)
    shift = M.constant(torch.finfo(torch.float64).eps if eps is None else eps)
    root = M.residue(modulo(mean_square + shift).double()).sqrt().tensor
    assert torch.equal(modulo(rstd.tensor * root), torch.ones(2, 1, 1, dtype=torch.int64))
    assert torch.equal(modulo(y.tensor * root), modulo(x.tensor * w))
    rule = RULES[find_op("_fused_rms_norm_backward.default")].function
    dx, dw = rule(M, grad, x, (3, 4), rstd, weight, [True, weighted])
    normalized, g = modulo(x.tensor * rstd.tensor), modulo(grad.tensor * w)
    inner = modulo(modulo(modulo(g * normalized).sum((1, 2), keepdim=True)) * pow(12, -1, PRIME))
    assert torch.equal(dx.tensor.long(), modulo(rstd.tensor * modulo(g - modulo(normalized * inner))))
    assert dw is None or torch.equal(dw.tensor.long(), modulo(modulo(grad.tensor * normalized).sum(0)))
    assert (dw is None) is not weighted
    assert rule(M, grad, x, (3, 4), rstd, weight, [False, False]) == (None, None)
    assert not torch.equal(dx.tensor.long(), modulo(rstd.tensor * g))


def test_layer_norm_of_a_transposed_tensor_can_be_viewed_as_pytorchs_can():
    x = torch.randn(2, 8, 5, dtype=torch.float64).transpose(1, 2)
    with ExactArithmetic(seed=1):
        found = F.layer_norm(x, (8,))
        assert found.stride() == (40, 8, 1)
        assert found.view(2, 40).shape == (2, 40)
