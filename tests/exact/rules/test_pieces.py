"""Piecewise functions whichever way they are written, at ties, and where pieces are not to matter."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.formulas import leaf, steps
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, sixteenths


def digits(exact, *tensors):
    return [exact.digits(x) for x in tensors]


def test_a_comparison_is_a_gate_as_a_number():
    numbers = sixteenths(24)
    x = leaf(numbers)
    with mode() as exact:
        found = digits(exact, (x > 0.5).double(), (x <= 0.5).float(), ((x > -1) & ~(x >= 2)) * 1.0, ~(x > 0.5) + x)
    values = [Z(n) for n in numbers]
    check(found[0], [O.gate(x - 0.5) for x in values])
    check(found[1], [1 - O.gate(x - 0.5) for x in values])
    check(found[2], [steps(x, [-1, 2], [0, 1, 0]) for x in values])
    check(found[3], [1 - O.gate(x - 0.5) + x for x in values])


def test_masks_of_two_tensors_are_products_of_gates():
    first, second = sixteenths(24), sixteenths(24, 50)
    x, y = leaf(first), leaf(second)
    with mode() as exact:
        both, either, one = digits(
            exact, ((x > 0) & (y > 1)) * 1.0, ((x > 0) | (y > 1)) * 1.0, ((x > 0) ^ (y > 1)) * 1.0
        )
    gates = [(O.gate(Z(a)), O.gate(Z(b) - 1)) for a, b in zip(first, second, strict=True)]
    check(both, [g * h for g, h in gates])
    check(either, [g + h - g * h for g, h in gates])
    check(one, [g + h - 2 * g * h for g, h in gates])


# Where x is 0 by its formula. name: (function, what its slope is there)
TIES = {
    "relu": (F.relu, 0),
    "clamp": (lambda x: x.clamp(min=0), 1),
    "clamp from above": (lambda x: x.clamp(max=0), 1),
    "where >": (lambda x: torch.where(x > 0, x, 0.0), 0),
    "where >=": (lambda x: torch.where(x >= 0, x, 0.0), 1),
    "abs": (torch.abs, 0),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.25), 0.25),
}


@pytest.mark.parametrize("name", TIES)
def test_the_slope_at_a_tie_is_pytorchs_own(name):
    function, slope = TIES[name]
    real = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(function(real).sum(), real)
    assert expected.tolist() == [slope] * 3
    x = leaf(sixteenths(3))
    with mode() as exact:
        zeros = x - x.clone()
        (found,) = torch.autograd.grad(function(zeros).sum(), zeros)
        check(exact.digits(found), [Z(slope)] * 3)


def test_a_norm_after_relu_is_the_norm_written_out():
    x = leaf(sixteenths(24))
    with mode() as exact:
        y = F.relu(x.view(4, 6))
        centered = y - y.mean(-1, keepdim=True)
        written_out = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        fused, norm, by_hand = F.layer_norm(y, (6,)), y.norm(dim=-1), (y * y).sum(-1).sqrt()
        assert torch.equal(*digits(exact, fused, written_out))
        assert torch.equal(*digits(exact, norm, by_hand))
        assert not torch.equal(*digits(exact, norm, (x.view(4, 6) * y).sum(-1).sqrt()))


def test_a_gradient_that_is_clipped_is_a_product_wherever_it_is_held():
    x = leaf(sixteenths(24))
    with mode() as exact:
        gradient = x * 3
        factor = (1 / gradient.norm()).clamp(max=1.0)
        whole = (gradient * factor).square()
        buffer = torch.zeros(30, dtype=torch.float64)
        part = buffer[2:26]
        part.copy_(gradient)
        part.mul_(factor)
        assert torch.equal(*digits(exact, whole, part.square()))
        assert torch.equal(*digits(exact, whole, gradient.square() * factor * factor))
        assert not torch.equal(*digits(exact, whole, gradient.square() * factor))


RELUS = {
    "transposed": lambda x: F.relu(x.t()).t(),
    "in place": lambda x: F.relu(x * 1, inplace=True),
    "in place of a part": lambda x: torch.cat([F.relu(x[:1]), F.relu(x[1:])]),
    "of a view": lambda x: F.relu(x.reshape(-1)).view(3, 4),
    "in a checkpoint": lambda x: torch.utils.checkpoint.checkpoint(F.relu, x, use_reentrant=False),
}


@pytest.mark.parametrize("name", RELUS)
def test_relus_backward_knows_its_gate_from_its_result(name):
    x, y = leaf(sixteenths(12)), leaf(sixteenths(12))
    weights = torch.arange(1, 13, dtype=torch.float64).view(3, 4)
    with mode() as exact:
        (RELUS[name](x.view(3, 4)) * weights).sum().backward()
        (y.view(3, 4) * (y.view(3, 4) > 0) * weights).sum().backward()
        assert torch.equal(*digits(exact, x.grad, y.grad))
        y.grad = None
        (y.view(3, 4) * (y.view(3, 4) > 1) * weights).sum().backward()
        assert not torch.equal(*digits(exact, x.grad, y.grad))


def test_saved_tensors_that_are_copied_keep_the_gate():
    x, y = leaf(sixteenths(12)), leaf(sixteenths(12))
    with mode() as exact:
        with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
            found = F.relu(x)
        found.sum().backward()
        (y * (y > 0)).sum().backward()
        assert torch.equal(*digits(exact, x.grad, y.grad))
