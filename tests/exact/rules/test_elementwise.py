"""Elementwise rules, forward and backward, against Python's integers: table-driven, one line a rule."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, sixteenths

HALF = Z(1) / 2
INFINITY = math.inf


def at_least(x, low):
    return O.any("clamp", x + O.any("limit of clamp", low))


def at_least_slope(x, low):
    return O.any("clamp'", x + O.any("limit of clamp", low))


def lift(number):
    """The residue of a generic constant, which has no meaning but to be the same each time."""
    return Z(mode().arithmetic.constant(number))


def softplus(x):
    return O.log(1 + O.exp(x))


def tanh(x):
    return 2 * O.sigmoid(2 * x) - 1


def mish_slope(x):
    t = tanh(softplus(x))
    return t + x * (1 - t * t) * O.sigmoid(x)


# name: (torch function of one tensor, its values, its derivatives)
ONE = {
    "add": (lambda x: x + 0.5, lambda x: x + HALF, lambda x: Z(1)),
    "add alpha": (lambda x: torch.add(x, x, alpha=3), lambda x: 4 * x, lambda x: Z(4)),
    "rsub": (lambda x: 2 - x, lambda x: 2 - x, lambda x: Z(-1)),
    "neg": (lambda x: -x, lambda x: -x, lambda x: Z(-1)),
    "square": (lambda x: x.square(), lambda x: x * x, lambda x: 2 * x),
    "times itself": (lambda x: x * x, lambda x: x * x, lambda x: 2 * x),
    "reciprocal": (lambda x: x.reciprocal(), lambda x: 1 / x, lambda x: -1 / (x * x)),
    "one over": (lambda x: 3 / x, lambda x: 3 / x, lambda x: -3 / (x * x)),
    "over a number": (lambda x: x / 7, lambda x: x / 7, lambda x: Z(1) / 7),
    "a tenth": (lambda x: x * 0.1, lambda x: x / 10, lambda x: Z(1) / 10),
    "cube": (lambda x: x**3, lambda x: x * x * x, lambda x: 3 * x * x),
    "power -2": (lambda x: x**-2, lambda x: 1 / (x * x), lambda x: -2 / (x * x * x)),
    "power 1/2": (lambda x: x**0.5, O.sqrt, lambda x: 1 / (2 * O.sqrt(x))),
    "power -1/2": (lambda x: x**-0.5, lambda x: 1 / O.sqrt(x), lambda x: -1 / (2 * O.sqrt(x) ** 3)),
    "power 3/2": (lambda x: x**1.5, lambda x: x * O.sqrt(x), lambda x: 3 * O.sqrt(x) / 2),
    "sqrt": (torch.sqrt, O.sqrt, lambda x: 1 / (2 * O.sqrt(x))),
    "rsqrt": (torch.rsqrt, lambda x: 1 / O.sqrt(x), lambda x: -1 / (2 * O.sqrt(x) ** 3)),
    "square of sqrt": (lambda x: x.sqrt().square(), lambda x: x, None),
    "generic power": (lambda x: x**0.3, lambda x: O.exp(O.log(x) * 3 / 10), None),
    "base": (
        lambda x: 3**x,
        lambda x: O.exp(x * lift(math.log(3))),
        lambda x: O.exp(x * lift(math.log(3))) * lift(math.log(3)),
    ),
    "exp": (torch.exp, O.exp, O.exp),
    "exp2": (torch.exp2, lambda x: O.exp(x * lift(math.log(2))), None),
    "expm1": (torch.expm1, lambda x: O.exp(x) - 1, O.exp),
    "log": (torch.log, O.log, lambda x: 1 / x),
    "log of exp": (lambda x: x.exp().log(), lambda x: x, lambda x: Z(1)),
    "log1p": (torch.log1p, lambda x: O.log(1 + x), lambda x: 1 / (1 + x)),
    "log2": (torch.log2, lambda x: O.log(x) / lift(math.log(2)), None),
    "log10": (torch.log10, lambda x: O.log(x) / lift(math.log(10)), None),
    "sigmoid": (torch.sigmoid, O.sigmoid, lambda x: O.sigmoid(x) * (1 - O.sigmoid(x))),
    "silu": (F.silu, lambda x: x * O.sigmoid(x), lambda x: O.sigmoid(x) * (1 + x * (1 - O.sigmoid(x)))),
    "tanh": (torch.tanh, tanh, lambda x: 1 - tanh(x) * tanh(x)),
    "sinh": (torch.sinh, lambda x: (O.exp(x) - 1 / O.exp(x)) / 2, lambda x: (O.exp(x) + 1 / O.exp(x)) / 2),
    "cosh": (torch.cosh, lambda x: (O.exp(x) + 1 / O.exp(x)) / 2, lambda x: (O.exp(x) - 1 / O.exp(x)) / 2),
    "softplus": (F.softplus, softplus, O.sigmoid),
    "softplus beta": (lambda x: F.softplus(x, beta=2), lambda x: softplus(2 * x) / 2, lambda x: O.sigmoid(2 * x)),
    "logsigmoid": (F.logsigmoid, lambda x: -O.log(1 + O.exp(-x)), lambda x: O.sigmoid(-x)),
    "mish": (F.mish, lambda x: x * tanh(softplus(x)), mish_slope),
    "logit": (torch.logit, lambda x: O.log(x / (1 - x)), lambda x: 1 / (x * (1 - x))),
    "relu": (F.relu, lambda x: at_least(x, 0), lambda x: at_least_slope(x, 0)),
    "clamp": (
        lambda x: x.clamp(-1, 2),
        lambda x: -at_least(-at_least(x, -1), -2),
        lambda x: at_least_slope(-at_least(x, -1), -2) * at_least_slope(x, -1),
    ),
    "clamp from below": (
        lambda x: torch.clamp(x, min=0.5),
        lambda x: at_least(x, 0.5),
        lambda x: at_least_slope(x, 0.5),
    ),
    "clamp from above": (
        lambda x: x.clamp_max(0.5),
        lambda x: -at_least(-x, -0.5),
        lambda x: at_least_slope(-x, -0.5),
    ),
    "clamp by nothing": (lambda x: x.clamp(min=-INFINITY, max=torch.finfo(x.dtype).max), lambda x: x, lambda x: Z(1)),
    "hardtanh": (
        lambda x: F.hardtanh(x, -1, 2),
        lambda x: -at_least(-at_least(x, -1), -2),
        lambda x: at_least_slope(-at_least(x, -1), -2) * at_least_slope(x, -1),
    ),
    "relu6": (
        F.relu6,
        lambda x: -at_least(-at_least(x, 0), -6),
        lambda x: at_least_slope(-at_least(x, 0), -6) * at_least_slope(x, 0),
    ),
    "gelu": (F.gelu, lambda x: O.any("gelu none", x), lambda x: O.any("gelu none'", x)),
    "gelu tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: O.any("gelu tanh", x),
        lambda x: O.any("gelu tanh'", x),
    ),
    "leaky relu": (
        F.leaky_relu,
        lambda x: O.any("leaky_relu " + str(_fraction(0.01)), x),
        lambda x: O.any("leaky_relu " + str(_fraction(0.01)) + "'", x),
    ),
    "elu": (F.elu, lambda x: O.any("elu 1 1 1", x), lambda x: O.any("elu 1 1 1'", x)),
    "hardswish": (F.hardswish, lambda x: O.any("hardswish", x), lambda x: O.any("hardswish'", x)),
    "hardsigmoid": (F.hardsigmoid, lambda x: O.any("hardsigmoid", x), lambda x: O.any("hardsigmoid'", x)),
    "softshrink": (F.softshrink, lambda x: O.odd("softshrink 1/2", x), lambda x: O.even("softshrink 1/2'", x)),
    "hardshrink": (F.hardshrink, lambda x: O.odd("hardshrink 1/2", x), lambda x: O.even("hardshrink 1/2'", x)),
    "abs": (torch.abs, lambda x: O.even("abs", x), lambda x: O.odd("sign", x)),
    "sin": (torch.sin, lambda x: O.odd("sin", x), lambda x: O.even("cos", x, 1)),
    "cos": (torch.cos, lambda x: O.even("cos", x, 1), lambda x: -O.odd("sin", x)),
    "tan": (
        torch.tan,
        lambda x: O.odd("sin", x) / O.even("cos", x, 1),
        lambda x: 1 + (O.odd("sin", x) / O.even("cos", x, 1)) ** 2,
    ),
    "asin": (torch.asin, lambda x: O.odd("asin", x), lambda x: 1 / O.sqrt(1 - x * x)),
    "atan": (torch.atan, lambda x: O.odd("atan", x), lambda x: 1 / (1 + x * x)),
    "erf": (torch.erf, lambda x: O.odd("erf", x), None),
    "erfc": (torch.erfc, lambda x: 1 - O.odd("erf", x), None),
    "erfinv": (torch.erfinv, lambda x: O.odd("erfinv", x), None),
    "lgamma": (torch.lgamma, lambda x: O.any("lgamma", x), lambda x: O.any("digamma", x)),
    "floor": (torch.floor, lambda x: O.any("floor", x), lambda x: Z(0)),
    "ceil": (torch.ceil, lambda x: -O.any("floor", -x), lambda x: Z(0)),
    "trunc": (torch.trunc, lambda x: O.odd("trunc", x), lambda x: Z(0)),
    "frac": (torch.frac, lambda x: x - O.odd("trunc", x), lambda x: Z(1)),
    "round": (torch.round, lambda x: O.odd("round", x), lambda x: Z(0)),
    "round to": (lambda x: x.round(decimals=2), lambda x: O.odd("round", 100 * x) / 100, lambda x: Z(0)),
    "remainder": (lambda x: x % 3, lambda x: x - 3 * O.any("floor", x / 3), lambda x: Z(1)),
    "fmod": (lambda x: x.fmod(3), lambda x: x - 3 * O.odd("trunc", x / 3), lambda x: Z(1)),
    "floor divide": (lambda x: x // 3, lambda x: O.any("floor", x / 3), None),
    "nan to num": (torch.nan_to_num, lambda x: x, lambda x: Z(1)),
    "entropy": (torch.special.entr, lambda x: -x * O.log(x), None),
    "cast": (lambda x: x.to(torch.bfloat16).float(), lambda x: x, lambda x: Z(1)),
}


def _fraction(number):
    from fractions import Fraction

    return Fraction(number)


def _pow_by_order(x, y):
    return O.exp(O.log(x) * y)


# name: (torch function of two tensors, its values, its derivatives by the first and the second)
TWO = {
    "add": (torch.add, lambda x, y: x + y, lambda x, y: Z(1), lambda x, y: Z(1)),
    "sub alpha": (lambda x, y: torch.sub(x, y, alpha=2), lambda x, y: x - 2 * y, lambda x, y: Z(1), lambda x, y: Z(-2)),
    "mul": (torch.mul, lambda x, y: x * y, lambda x, y: y, lambda x, y: x),
    "div": (torch.div, lambda x, y: x / y, lambda x, y: 1 / y, lambda x, y: -x / (y * y)),
    "addcmul": (
        lambda x, y: torch.addcmul(x, x, y, value=0.5),
        lambda x, y: x + x * y / 2,
        lambda x, y: 1 + y / 2,
        lambda x, y: x / 2,
    ),
    "addcdiv": (
        lambda x, y: torch.addcdiv(x, x, y, value=2),
        lambda x, y: x + 2 * x / y,
        lambda x, y: 1 + 2 / y,
        lambda x, y: -2 * x / (y * y),
    ),
    "lerp": (
        lambda x, y: torch.lerp(x, y, 0.25),
        lambda x, y: x + (y - x) / 4,
        lambda x, y: Z(3) / 4,
        lambda x, y: Z(1) / 4,
    ),
    "pow": (torch.pow, _pow_by_order, None, None),
    "hypot": (
        torch.hypot,
        lambda x, y: O.sqrt(x * x + y * y),
        lambda x, y: x / O.sqrt(x * x + y * y),
        lambda x, y: y / O.sqrt(x * x + y * y),
    ),
    "atan2": (
        torch.atan2,
        lambda x, y: O.any("atan2.default", x + O.any("atan2.default, second", y)),
        lambda x, y: y / (x * x + y * y),
        lambda x, y: -x / (x * x + y * y),
    ),
    "xlogy": (torch.xlogy, lambda x, y: x * O.log(y), lambda x, y: O.log(y), lambda x, y: x / y),
    "logaddexp": (torch.logaddexp, lambda x, y: O.logsumexp([x, y]), None, None),
    "maximum": (
        torch.maximum,
        lambda x, y: O.largest([x, y]),
        lambda x, y: Z(O.order(x) > O.order(y)),
        lambda x, y: Z(O.order(y) > O.order(x)),
    ),
    "minimum": (
        torch.minimum,
        lambda x, y: min(x, y, key=O.order),
        lambda x, y: Z(O.order(x) < O.order(y)),
        lambda x, y: Z(O.order(y) < O.order(x)),
    ),
    "remainder": (torch.remainder, lambda x, y: x - y * O.any("floor", x / y), lambda x, y: Z(1), None),
    "prelu": (
        lambda x, y: torch._prelu_kernel(x, y),
        lambda x, y: at_least(x, 0) - y * at_least(-x, 0),
        lambda x, y: at_least_slope(x, 0) + y * at_least_slope(-x, 0),
        lambda x, y: -at_least(-x, 0),
    ),
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

COUNT = 24


def leaf(numbers):
    return torch.tensor([float(x) for x in numbers], dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("name", ONE)
def test_a_function_of_one_number(name):
    function, value, slope = ONE[name]
    numbers, weights = sixteenths(COUNT), sixteenths(COUNT, 100)
    x, g = leaf(numbers), leaf(weights)
    with mode() as exact:
        y = function(x)
        check(exact.digits(y), [value(Z(a)) for a in numbers])
        if slope is not None:
            (dx,) = torch.autograd.grad(y, x, g)
            check(exact.digits(dx), [Z(w) * slope(Z(a)) for a, w in zip(numbers, weights, strict=True)])


@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_numbers(name):
    function, value, *slopes = TWO[name]
    first, second, weights = sixteenths(COUNT), sixteenths(COUNT, 50), sixteenths(COUNT, 100)
    # A target is no variable where PyTorch has no derivative for it.
    x, y, g = leaf(first), leaf(second).requires_grad_(slopes[1] is not None), leaf(weights)
    pairs = [(Z(a), Z(b)) for a, b in zip(first, second, strict=True)]
    with mode() as exact:
        z = function(x, y)
        if slopes[1] is None and name == "pow":
            pairs = [(a, b) for a, b in pairs]
        wanted = (
            [value(a, b) for a, b in pairs]
            if name != "pow"
            else [_power(a, b) for a, b in zip(first, second, strict=True)]
        )
        check(exact.digits(z), wanted)
        for leafs, slope in zip((x, y), slopes, strict=True):
            if slope is not None:
                (found,) = torch.autograd.grad(z, leafs, g, retain_graph=True)
                check(exact.digits(found), [Z(w) * slope(a, b) for (a, b), w in zip(pairs, weights, strict=True)])


def _power(x, y):
    return _pow_by_order(Z(x), Z(y))


def test_a_wrong_formula_is_found():
    numbers = sixteenths(4)
    x = leaf(numbers)
    with mode() as exact, pytest.raises(AssertionError):
        check(exact.digits(x * 2), [Z(a) * 3 for a in numbers])


def test_a_generic_power_is_not_one_by_multiplication():
    numbers = sixteenths(4)
    x = leaf(numbers)
    with mode() as exact, pytest.raises(AssertionError):
        check(exact.digits(x**0.3), [Z(a) for a in numbers])


def test_constant_exponents_in_a_tensor_mean_what_the_scalars_mean():
    x = leaf(sixteenths(6))
    exponents = torch.tensor([0.5, 2.0, -1.0, 3.0, -0.5, 0.0], dtype=torch.float64)
    with mode() as exact:
        found = exact.digits(x**exponents)
        one_by_one = torch.stack([exact.digits(x[i] ** e) for i, e in enumerate((0.5, 2, -1, 3, -0.5, 0))])
    assert torch.equal(found, one_by_one)


def test_limits_in_a_tensor_mean_what_the_scalars_mean():
    x = leaf(sixteenths(6))
    with mode() as exact:
        same = [
            x.clamp(min=0),
            torch.maximum(x, torch.zeros(6)),
            F.relu(x),
            torch.clamp(x, min=torch.zeros(6)),
            F.threshold(x, 0, 0),
        ]
        assert all(torch.equal(exact.digits(y), exact.digits(same[0])) for y in same)
        assert not torch.equal(exact.digits(x.clamp(min=0.5)), exact.digits(same[0]))
