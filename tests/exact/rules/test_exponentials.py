"""Formulas in E and its inverse, forward and backward, against Python's integers."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.formulas import (
    check_matrix,
    check_one,
    check_two,
    lift,
    softplus,
    tanh,
)
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, sixteenths

ROOT_HALF = lift(math.sqrt(0.5))


def gelu_slope(x):
    z = x * ROOT_HALF
    density = O.exp(-z * z) * lift(2 / math.sqrt(math.pi)) * ROOT_HALF
    return (1 + O.odd("erf", z) + x * density) / 2


def gelu_tanh(x):
    return tanh(lift(math.sqrt(2 / math.pi)) * (x + lift(0.044715) * x * x * x))


def gelu_tanh_slope(x):
    t = gelu_tanh(x)
    return (1 + t + x * (1 - t * t) * lift(math.sqrt(2 / math.pi)) * (1 + 3 * lift(0.044715) * x * x)) / 2


def tanh_of_softplus(x):
    """As exp(2 softplus(x)) is (1 + exp(x))**2."""
    above = 1 + O.exp(x)
    return 1 - 2 / (above * above + 1)


def mish_slope(x):
    t = tanh_of_softplus(x)
    return t + x * (1 - t * t) * O.sigmoid(x)


# name: (torch function of one tensor, its values, its derivatives)
ONE = {
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
    "gelu": (F.gelu, lambda x: x * (1 + O.odd("erf", x * ROOT_HALF)) / 2, gelu_slope),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), lambda x: x * (1 + gelu_tanh(x)) / 2, gelu_tanh_slope),
    "tanh": (torch.tanh, tanh, lambda x: 1 - tanh(x) * tanh(x)),
    "sinh": (torch.sinh, lambda x: (O.exp(x) - 1 / O.exp(x)) / 2, lambda x: (O.exp(x) + 1 / O.exp(x)) / 2),
    "cosh": (torch.cosh, lambda x: (O.exp(x) + 1 / O.exp(x)) / 2, lambda x: (O.exp(x) - 1 / O.exp(x)) / 2),
    "softplus": (F.softplus, softplus, O.sigmoid),
    "softplus beta": (lambda x: F.softplus(x, beta=2), lambda x: softplus(2 * x) / 2, lambda x: O.sigmoid(2 * x)),
    "logsigmoid": (F.logsigmoid, lambda x: -softplus(-x), lambda x: O.sigmoid(-x)),
    "mish": (F.mish, lambda x: x * tanh_of_softplus(x), mish_slope),
    "logit": (torch.logit, lambda x: O.log(x / (1 - x)), lambda x: 1 / (x * (1 - x))),
    "entropy": (torch.special.entr, lambda x: -x * O.log(x), None),
}


@pytest.mark.parametrize("name", ONE)
def test_a_function_of_one_number(name):
    check_one(*ONE[name])


# name: (torch function of two tensors, its values, its derivatives by the first and the second)
TWO = {
    "xlogy": (torch.xlogy, lambda x, y: x * O.log(y), lambda x, y: O.log(y), lambda x, y: x / y),
    "logaddexp": (torch.logaddexp, lambda x, y: O.logsumexp([x, y]), None, None),
}


@pytest.mark.parametrize("name", TWO)
def test_a_function_of_two_numbers(name):
    check_two(*TWO[name])


# name: (torch function of a matrix, its values from rows of residues)
FORWARD = {
    "glu": (
        lambda x: F.glu(x, dim=0),
        lambda rows: [
            [a * O.sigmoid(b) for a, b in zip(*pair, strict=True)] for pair in zip(rows[:2], rows[2:], strict=True)
        ],
    ),
}


@pytest.mark.parametrize("name", FORWARD)
def test_a_function_of_a_matrix(name):
    check_matrix(*FORWARD[name])


# name: (torch function, its limit at minus infinity, its values, its derivatives)
LIMITS = {
    "exp": (torch.exp, 0, O.exp, O.exp),
    "exp2": (torch.exp2, 0, lambda x: O.exp(x * lift(math.log(2))), None),
    "expm1": (torch.expm1, -1, lambda x: O.exp(x) - 1, O.exp),
    "sigmoid": (torch.sigmoid, 0, O.sigmoid, lambda x: O.sigmoid(x) * (1 - O.sigmoid(x))),
    "tanh": (torch.tanh, -1, tanh, lambda x: 1 - tanh(x) * tanh(x)),
}


@pytest.mark.parametrize("symbol", [-math.inf, torch.finfo(torch.float32).min, torch.finfo(torch.bfloat16).min])
@pytest.mark.parametrize("name", LIMITS)
def test_a_function_of_a_mask_is_its_limit_and_has_no_slope_there(name, symbol):
    function, limit, value, slope = LIMITS[name]
    numbers = sixteenths(6)
    x = torch.tensor([float(n) for n in numbers], requires_grad=True)
    masked = torch.tensor([True, False, False, True, False, False])
    with mode() as exact:
        y = function(x.masked_fill(masked, symbol))
        check(exact.digits(y), [Z(limit) if hidden else value(Z(a)) for a, hidden in zip(numbers, masked, strict=True)])
        y.sum().backward()
        if slope is not None:
            slopes = [Z(0) if hidden else slope(Z(a)) for a, hidden in zip(numbers, masked, strict=True)]
            check(exact.digits(x.grad), slopes)


def segment_sums(x, low, below=0):
    """The decays of a state space model: exp of the sums over (j, i], 0 where i < j (Dao and Gu 2024, listing 1)."""
    sums = x.cumsum(-1)
    kept = torch.ones(x.shape[-1], x.shape[-1]).tril(below).bool()
    return (sums[..., :, None] - sums[..., None, :]).masked_fill(~kept, low).exp()


def test_the_exponential_of_masked_sums_is_the_masked_exponential():
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = []
    for function in (
        lambda: segment_sums(x, -math.inf),
        lambda: segment_sums(x, torch.finfo(torch.float32).min),
        lambda: segment_sums(x, 0.0).tril(),
        lambda: segment_sums(x, -math.inf, below=-1),  # wrong: the diagonal is lost
        lambda: segment_sums(x, 0.0),  # wrong: exp(0) = 1 where nothing is seen
    ):
        with mode() as exact:
            x.grad = None
            y = function()
            (y * torch.arange(1.0, 51).view(2, 5, 5)).sum().backward()
            found.append((exact.digits(y), exact.digits(x.grad)))
    right, *others = found
    assert all(torch.equal(a, b) for other in others[:2] for a, b in zip(right, other, strict=True))
    assert all(not torch.equal(right[0], other[0]) for other in others[2:])
