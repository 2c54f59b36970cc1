"""Convolutions and their gradients against Python's loops over the definition."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.integers import Z, check, mode, sixteenths


def leaf(start, *shape):
    numbers = sixteenths(torch.Size(shape).numel(), start)
    x = torch.tensor([float(n) for n in numbers], dtype=torch.float64).reshape(shape).requires_grad_()
    return x, {place: Z(n) for place, n in zip(product(*map(range, shape)), numbers, strict=True)}


def pairs(image, kernel, places, stride, padding, dilation, groups, outs, ins):
    """Every (output place, input place, weight place) of a convolution of one dim that meet."""
    for o, c, i, k in product(range(outs), range(ins // groups), range(places), range(kernel)):
        at = i * stride + k * dilation - padding
        if 0 <= at < image:
            yield (o, i), (o // (outs // groups) * (ins // groups) + c, at), (o, c, k)


CONVOLUTIONS = {
    "plain": {},
    "strided": {"stride": 2},
    "padded": {"padding": 2},
    "dilated": {"dilation": 2},
    "grouped": {"groups": 2},
    "all": {"stride": 2, "padding": 1, "dilation": 2, "groups": 2},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_and_its_gradients(name):
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | CONVOLUTIONS[name]
    groups = options["groups"]
    (x, xs), (w, ws), (b, bs) = leaf(0, 2, 4, 7), leaf(100, 6, 4 // groups, 3), leaf(200, 6)
    with mode() as exact:
        y = F.conv1d(x, w, b, **options)
        places = y.shape[-1]
        found = exact.digits(y)
    g, gs = leaf(300, 2, 6, places)
    with mode() as exact:
        y = F.conv1d(x, w, b, **options)
        grads = [exact.digits(t) for t in torch.autograd.grad(y, (x, w, b), g)]
    assert y.shape == (2, 6, places)
    out = {(n, o, i): bs[o,] for n in range(2) for o in range(6) for i in range(places)}
    dx, dw = dict.fromkeys(xs, Z(0)), dict.fromkeys(ws, Z(0))
    met = list(pairs(7, 3, places, **options, outs=6, ins=4))
    for n in range(2):
        for (o, i), (c, at), place in met:
            out[n, o, i] += ws[place] * xs[n, c, at]
            dx[n, c, at] += ws[place] * gs[n, o, i]
            dw[place] += xs[n, c, at] * gs[n, o, i]
    check(found, list(out.values()))
    check(grads[0], list(dx.values()))
    check(grads[1], list(dw.values()))
    check(grads[2], [sum((gs[n, o, i] for n in range(2) for i in range(places)), Z(0)) for o in range(6)])


def test_a_shifted_convolution_is_found():
    (x, xs), (w, ws) = leaf(0, 1, 1, 5), leaf(50, 1, 1, 3)
    with mode() as exact:
        found = exact.digits(F.conv1d(x, w))
    with pytest.raises(AssertionError):
        check(found, [sum((ws[0, 0, 2 - k] * xs[0, 0, i + k] for k in range(3)), Z(0)) for i in range(3)])


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1, "output_padding": 1}, {"dilation": 2, "groups": 2}]
)
def test_transposed_convolution_spreads_each_element_over_the_kernel(options):
    settings = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | options
    groups, extra = settings["groups"], settings.pop("output_padding", 0)
    (x, xs), (w, ws) = leaf(0, 2, 4, 5), leaf(100, 4, 6 // groups, 3)
    with mode() as exact:
        y = F.conv_transpose1d(x, w, output_padding=extra, **settings)
        places, found = y.shape[-1], exact.digits(y)
        g = torch.ones(y.shape, dtype=torch.float64)
        dw = exact.digits(torch.autograd.grad(y, w, g)[0])
    assert y.shape == F.conv_transpose1d(x, w, output_padding=extra, **settings).shape
    out = dict.fromkeys(product(range(2), range(6), range(places)), Z(0))
    slopes = dict.fromkeys(ws, Z(0))
    # The roles of input and output are exchanged.
    for n in range(2):
        for (c, i), (o, at), place in pairs(places, 3, 5, **settings, outs=4, ins=6):
            out[n, o, at] += ws[place] * xs[n, c, i]
            slopes[place] += xs[n, c, i]
    check(found, list(out.values()))
    check(dw, list(slopes.values()))


def test_convolution_of_two_dims():
    (x, xs), (w, ws) = leaf(0, 1, 2, 5, 4), leaf(100, 3, 2, 3, 2)
    with mode() as exact:
        found = exact.digits(F.conv2d(x, w, stride=(2, 1), padding=(1, 0)))
    wanted = []
    for o, i, j in product(range(3), range(3), range(3)):
        acc = Z(0)
        for c, k, l in product(range(2), range(3), range(2)):
            acc += ws[o, c, k, l] * xs.get((0, c, 2 * i + k - 1, j + l), Z(0))
        wanted.append(acc)
    check(found, wanted)


@pytest.mark.parametrize("transposed", [False, True])
def test_an_image_without_a_batch_dim_gives_what_it_gives_in_a_batch(transposed):
    function = F.conv_transpose2d if transposed else F.conv2d
    (x, _), (w, _), (b, _) = leaf(0, 2, 5, 4), leaf(100, 2, 2, 3, 2), leaf(200, 2)
    with mode() as exact:
        alone, batch = function(x, w, b, stride=2), function(x[None], w, b, stride=2)
        found, wanted = exact.digits(alone), exact.digits(batch)
        g = torch.arange(alone.numel(), dtype=torch.float64).reshape(alone.shape)
        slopes = [torch.autograd.grad(y, (x, w, b), c) for y, c in ((alone, g), (batch, g[None]))]
        pairs = [[exact.digits(one) for one in found] for found in slopes]
    assert found.shape == function(x, w, b, stride=2).shape
    assert torch.equal(found, wanted[0])
    assert not torch.equal(found, found.flip(0))
    assert all(torch.equal(one, two) for one, two in zip(*pairs, strict=True))
    assert pairs[0][0].shape == x.shape


def test_a_single_number_stands_for_every_dim():
    """As PyTorch's dispatcher hands them on: the stride and the paddings of all dims in a list of one."""
    (x, _), (w, _) = leaf(0, 1, 2, 4, 3), leaf(100, 2, 2, 3, 3)
    with mode() as exact:
        each = torch.ops.aten.convolution(x, w, None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1)
        one = torch.ops.aten.convolution(x, w, None, [2], [1], [1], True, [1], 1)
        first, second = exact.digits(each), exact.digits(one)
    assert first.shape == F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1).shape
    assert torch.equal(first, second)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("mask", list(product([False, True], repeat=3)))
def test_the_gradients_that_are_asked_for_are_given_and_no_others(mask, transposed):
    (x, _), (w, _), (g, _) = leaf(0, 2, 2, 4), leaf(100, 2, 2, 3), leaf(200, 2, 2, 6 if transposed else 2)
    settings = (None, [1], [0], [1], transposed, [0], 1)
    with mode() as exact, torch.no_grad():
        every = torch.ops.aten.convolution_backward(g, x, w, *settings, [True] * 3)
        some = torch.ops.aten.convolution_backward(g, x, w, *settings, list(mask))
        wanted = [exact.digits(one) if asked else None for one, asked in zip(every, mask, strict=True)]
        found = [None if one is None else exact.digits(one) for one in some]
    assert [one is not None for one in found] == list(mask)
    assert all(one is None or torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
