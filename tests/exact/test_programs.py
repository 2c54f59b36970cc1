"""Whole programs in their different forms: optimizers, checkpointing, tied weights, accumulation, casts."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.integers import mode
from torch import nn
from torch.utils.checkpoint import checkpoint


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(first, second):
    return [torch.equal(a, b) for a, b in zip(first, second, strict=True)]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "sgd momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}),
    "sgd nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam": (torch.optim.Adam, {"lr": 1e-3, "weight_decay": 0.01}),
    "adam amsgrad": (torch.optim.Adam, {"lr": 1e-3, "amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"lr": 1e-3, "betas": (0.8, 0.95)}),
    "adamw maximize": (torch.optim.AdamW, {"lr": 1e-3, "maximize": True}),
}


def trained(kind, options, *, steps=3):
    torch.manual_seed(0)
    net = Net()
    optimizer = kind(net.parameters(), **options)
    x = drawn(3, 5, 4)
    with mode() as exact:
        for _ in range(steps):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
        return [exact.digits(p) for p in net.parameters()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_default_the_foreach_and_the_for_loop_form_of_an_optimizer_agree(name):
    kind, options = OPTIMIZERS[name]
    default, foreach, loop = (trained(kind, options | form) for form in ({}, {"foreach": True}, {"foreach": False}))
    assert all(same(default, foreach))
    assert all(same(default, loop))
    assert not any(same(default, trained(kind, options | {"lr": options["lr"] * 1.001})))


def test_muon():
    options = {"lr": 1e-2, "weight_decay": 0.1}
    found = trained(torch.optim.Muon, options)
    assert all(same(found, trained(torch.optim.Muon, options)))
    assert not any(same(found, trained(torch.optim.Muon, options | {"weight_decay": 0.2})))
    assert not any(same(found, trained(torch.optim.Muon, options | {"nesterov": False})))


def test_adamw_is_its_formula():
    """Loshchilov and Hutter 2019, algorithm 2, by hand."""
    torch.manual_seed(0)
    net = Net()
    twin = copy.deepcopy(net)
    x, (b1, b2), lr, decay, eps = drawn(3, 5, 4), (0.8, 0.95), 1e-3, 1e-2, 1e-8
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, betas=(b1, b2), eps=eps, weight_decay=decay)
    with mode() as exact:
        first = [torch.zeros_like(p) for p in twin.parameters()]
        second = [torch.zeros_like(p) for p in twin.parameters()]
        for step in range(1, 3):
            for module in (net, twin):
                module.zero_grad()
                module(x).square().mean().backward()
            optimizer.step()
            with torch.no_grad():
                for i, p in enumerate(twin.parameters()):
                    first[i] = b1 * first[i] + (1 - b1) * p.grad
                    second[i] = b2 * second[i] + (1 - b2) * p.grad * p.grad
                    rate = second[i].sqrt() / math.sqrt(1 - b2**step) + eps
                    p.copy_(p * (1 - lr * decay) - lr / (1 - b1**step) * first[i] / rate)
        found = [[exact.digits(p) for p in module.parameters()] for module in (net, twin)]
    assert all(same(*found))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_changes_nothing(use_reentrant):
    def gradients(run):
        torch.manual_seed(0)
        net, x = Net(), drawn(3, 5, 4).requires_grad_()
        with mode() as exact:
            run(net, x).square().mean().backward()
            return [exact.digits(p.grad) for p in net.parameters()] + [exact.digits(x.grad)]

    plain = gradients(lambda net, x: net(x))
    again = gradients(lambda net, x: checkpoint(net, x * 1, use_reentrant=use_reentrant, preserve_rng_state=False))
    assert all(same(plain, again))
    assert not any(same(plain, gradients(lambda net, x: net(x + 1))))


def test_tied_weights_get_the_sum_of_both_gradients():
    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(7, 4))
    copies = [nn.Parameter(table.detach().clone()) for _ in range(2)]
    ids, labels = torch.tensor([1, 5, 0]), torch.tensor([2, 2, 6])
    with mode() as exact:
        F.cross_entropy(F.embedding(ids, table) @ table.t(), labels).backward()
        F.cross_entropy(F.embedding(ids, copies[0]) @ copies[1].t(), labels).backward()
        assert torch.equal(exact.digits(table.grad), exact.digits(copies[0].grad + copies[1].grad))
        assert not torch.equal(exact.digits(table.grad), exact.digits(copies[0].grad))


def test_accumulated_gradients_are_those_of_the_whole_batch():
    torch.manual_seed(0)
    net, x = Net(), drawn(3, 6, 4)
    twin = copy.deepcopy(net)
    with mode() as exact:
        net(x).square().mean().backward()
        for part in x.split(2):
            (twin(part).square().mean() / 3).backward()
        found = [[exact.digits(p.grad) for p in module.parameters()] for module in (net, twin)]
        twin(x[:2]).square().mean().backward()
        more = [exact.digits(p.grad) for p in twin.parameters()]
    assert all(same(*found))
    assert not any(same(found[0], more))


def test_casts_inside_the_model_change_nothing():
    net, x = Net(), drawn(3, 5, 4)
    with mode() as exact:
        plain = exact.digits(net(x))
        cast = exact.digits(net.down(F.gelu(net.up(x).to(torch.bfloat16)).float()).half().double())
        other = exact.digits(net(x.to(torch.bfloat16) * 2))
    assert torch.equal(plain, cast)
    assert not torch.equal(plain, other)


def test_a_model_in_bfloat16_and_autocast():
    torch.manual_seed(0)
    net, x = Net().to(torch.bfloat16), drawn(3, 5, 4)
    with mode() as exact:
        plain = exact.digits(net(x))
        with torch.autocast("cpu", torch.bfloat16):
            cast = exact.digits(net(x))
    assert torch.equal(plain, cast)


def test_dropout_with_a_given_mask():
    x = drawn(3, 5, 4).requires_grad_()
    mask = torch.rand(5, 4, generator=torch.Generator().manual_seed(1)) > 0.5
    with mode() as exact:
        y = x * mask / (1 - 0.5)
        again = torch.where(mask, x, 0) * 2
        fused = torch.ops.aten.native_dropout_backward(x, mask, 2.0)
        assert torch.equal(exact.digits(y), exact.digits(again))
        assert torch.equal(exact.digits(y), exact.digits(fused))
        assert not torch.equal(exact.digits(y), exact.digits(x * 2))
