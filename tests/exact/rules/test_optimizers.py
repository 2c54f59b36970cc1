"""Fused optimizers and GradScaler against the unfused ones, step by step, each with a planted bug beside it."""

import pytest
import torch
from tests.exact.rules.integers import PRIME, mode
from torch import nn

from shardproof.exact import ExactArithmetic

STEPS = 3

# name: (optimizer, its arguments, the same with a planted bug)
OPTIMIZERS = {
    "adam": (torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.01}, {"lr": 0.1, "weight_decay": 0.0}),
    "adam, amsgrad": (torch.optim.Adam, {"lr": 0.1, "amsgrad": True}, {"lr": 0.1, "amsgrad": False}),
    "adam, maximize": (torch.optim.Adam, {"lr": 0.1, "maximize": True}, {"lr": 0.1}),
    "adamw": (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.01}, {"lr": 0.1, "weight_decay": 0.02}),
    "adamw, a tensor for a rate": (
        torch.optim.AdamW,
        {"lr": torch.tensor(0.1), "betas": (0.8, 0.9)},
        {"lr": torch.tensor(0.1), "betas": (0.8, 0.95)},
    ),
    "sgd": (torch.optim.SGD, {"lr": 0.1}, {"lr": 0.2}),
    "sgd, momentum": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.25, "weight_decay": 0.01},
    ),
    "sgd, nesterov": (
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"lr": 0.1, "momentum": 0.9, "nesterov": False},
    ),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.5}, {"lr": 0.1, "lr_decay": 0.25}),
}


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((3, 4), (4,))]


def trained(kind, settings, *, scale=None, **how):
    """The digits of the parameters and of the state after some steps."""
    a, b = parameters()
    optimizer = kind([a, b], **settings, **how)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, growth_interval=2, enabled=scale is not None)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    with mode() as exact:
        for _ in range(STEPS):
            optimizer.zero_grad()
            scaler.scale(((x @ a + b) ** 2).mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        assert scale is None or scaler.get_scale() == scale * 2
        state = [value for p in (a, b) for _, value in sorted(optimizer.state[p].items()) if value is not None]
        return [exact.digits(value) for value in (a, b, *state)]


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fused_optimizer_is_the_unfused_one(name):
    kind, settings, wrong = OPTIMIZERS[name]
    single = trained(kind, settings, foreach=False)
    fused = trained(kind, settings, fused=True)
    assert same(single, fused)
    planted = trained(kind, wrong, fused=True)
    assert not torch.equal(planted[0], fused[0])
    assert not torch.equal(planted[1], fused[1])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_scaled_gradients_are_unscaled_before_the_step(kind, fused):
    plain = trained(kind, {"lr": 0.1}, fused=fused)
    scaled = trained(kind, {"lr": 0.1}, fused=fused, scale=1024.0)
    assert same(plain, scaled)


def test_a_gradient_that_is_never_unscaled_is_seen():
    a, b = parameters()
    digits = []
    for unscaled in (True, False):
        scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=8.0), torch.optim.SGD([a, b], lr=0.1)
        with mode() as exact:
            optimizer.zero_grad()
            scaler.scale((a * b).sum()).backward()
            if unscaled:
                scaler.unscale_(optimizer)
            digits.append(exact.digits(a.grad))
    assert bool(((digits[0] * 8 - digits[1]) % PRIME == 0).all())
    assert bool((digits[0] != digits[1]).any())


def test_a_step_is_left_out_where_an_infinity_was_found():
    a, _ = parameters()
    optimizer = torch.optim.SGD([a], lr=0.1, fused=True)
    for found in (0.0, 1.0):
        with mode() as exact:
            before = exact.digits(a * 1)
            a.grad = torch.ones_like(a)
            optimizer.grad_scale, optimizer.found_inf = None, torch.tensor(found)
            optimizer.step()
            assert torch.equal(before, exact.digits(a)) == bool(found)


def adam_by_hand(parameter, xs, *, beta=0.99, late=0):
    """Kingma and Ba 2015, algorithm 1."""
    mean, square = torch.zeros_like(parameter), torch.zeros_like(parameter)
    for step, x in enumerate(xs, 1):
        parameter.grad = None
        ((parameter * x).sum() ** 2).backward()
        with torch.no_grad():
            mean = 0.9 * mean + (1 - 0.9) * parameter.grad
            square = beta * square + (1 - beta) * parameter.grad * parameter.grad
            corrected = square / (1 - beta ** (step + late))
            parameter -= 0.01 * (mean / (1 - 0.9**step)) / (corrected.sqrt() + 1e-8)


@pytest.mark.parametrize("beta", [0.999, 0.99, 0.95])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("elements", [4, 1 << 30])
def test_adam_as_it_is_written_in_the_paper_is_torchs(beta, dtype, elements, monkeypatch):
    monkeypatch.setattr("shardproof.exact.algebra.blocks._ELEMENTS_A_THREAD", elements)
    generator = torch.Generator().manual_seed(0)
    start, xs = torch.randn(8, generator=generator, dtype=dtype), torch.randn(3, 8, generator=generator, dtype=dtype)
    found, reference = [], None

    def by_torch(parameter):
        optimizer = torch.optim.Adam([parameter], lr=0.01, betas=(0.9, beta))
        for x in xs:
            optimizer.zero_grad()
            ((parameter * x).sum() ** 2).backward()
            optimizer.step()

    for train in (
        by_torch,
        lambda parameter: adam_by_hand(parameter, xs, beta=beta),
        lambda parameter: adam_by_hand(parameter, xs, beta=beta, late=1),
    ):
        parameter = torch.nn.Parameter(start.clone())
        with ExactArithmetic(seed=1, reference=reference) as exact:
            train(parameter)
            found.append(exact.digits(parameter))
            reference = reference or exact.constants
    assert torch.equal(found[0], found[1])
    assert not bool((found[0] == found[2]).any())


def test_a_quotient_by_a_count_has_the_root_of_its_residue():
    x = torch.rand(6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with ExactArithmetic(seed=1) as exact, torch.no_grad():
        for count in (3, 6.0, 0.5, 1 / 6, 7 / 6):
            assert torch.equal(exact.digits((x / count).sqrt()), exact.digits((x / count + 0 * x).sqrt()))
        quotient = x / 0.3
        assert torch.equal(exact.digits(quotient.sqrt() ** 2), exact.digits(quotient))
        assert not torch.equal(exact.digits(quotient.sqrt()), exact.digits((quotient + 0 * x).sqrt()))
        root, right = quotient.sqrt(), exact.digits(quotient)
        quotient.zero_()
        assert torch.equal(exact.digits(root * root), right)
