"""Convolutions, pools and resampling against Python's loops over the definition, in fractions."""

from fractions import Fraction
from itertools import product
from math import ceil

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.integers import ORACLES as O
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


def test_max_pool_chooses_by_the_keyed_order():
    x, xs = leaf(0, 1, 1, 4, 6)
    with mode() as exact:
        y = F.max_pool2d(x, 2)
        found, slopes = exact.digits(y), exact.digits(torch.autograd.grad(y.sum(), x)[0])
    windows = [[(0, 0, 2 * i + a, 2 * j + b) for a in range(2) for b in range(2)] for i in range(2) for j in range(3)]
    chosen = [max(window, key=lambda p: O.order(xs[p])) for window in windows]
    check(found, [xs[p] for p in chosen])
    check(slopes, [Z(p in chosen) for p in xs])


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


@pytest.mark.parametrize("how", ["reflect", "replicate"])
def test_pads_add_up_what_they_copied(how):
    x, xs = leaf(0, 1, 1, 4)
    with mode() as exact:
        y = F.pad(x, (2, 3), mode=how)
        found, slopes = exact.digits(y), exact.digits(torch.autograd.grad(y.sum(), x)[0])
    places = (
        [abs(i) if i < 4 else 6 - i for i in range(-2, 7)]
        if how == "reflect"
        else [min(max(i, 0), 3) for i in range(-2, 7)]
    )
    check(found, [xs[0, 0, p] for p in places])
    check(slopes, [Z(places.count(p)) for p in range(4)])


def test_fold_is_the_transpose_of_unfold():
    x, xs = leaf(0, 1, 1, 4, 4)
    with mode() as exact:
        y = F.unfold(x, 2)
        found, back = exact.digits(y), exact.digits(F.fold(y, (4, 4), 2))
    columns = [[xs[0, 0, i + a, j + b] for i in range(3) for j in range(3)] for a in range(2) for b in range(2)]
    check(found, columns)
    meets = [(1 if i in {0, 3} else 2) * (1 if j in {0, 3} else 2) for i in range(4) for j in range(4)]
    check(back, [v * m for v, m in zip(xs.values(), meets, strict=True)])
