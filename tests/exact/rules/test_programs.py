"""Whole programs in their different forms: attention, optimizers, checkpointing, tied weights, accumulation, casts."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.integers import mode
from torch import nn
from torch.utils.checkpoint import checkpoint

from shardproof.exact import RandomDrawError


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(first, second):
    return [torch.equal(a, b) for a, b in zip(first, second, strict=True)]


# Attention ------------------------------------------------------------------------------------------------------------

LENGTH, SIZE = 5, 8
TRIANGLE = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
LEFT_PADDED = torch.ones(2, 1, LENGTH, LENGTH, dtype=torch.bool).tril()
LEFT_PADDED[1, :, :, 0] = False
MASKS = {
    "none": None,
    "bool": TRIANGLE,
    "float": torch.zeros(LENGTH, LENGTH).masked_fill(~TRIANGLE, float("-inf")),
    "finfo.min": torch.zeros(LENGTH, LENGTH).masked_fill(~TRIANGLE, torch.finfo(torch.float32).min),
    "a row of finfo.min": torch.zeros(2, 1, LENGTH, LENGTH).masked_fill(~LEFT_PADDED, torch.finfo(torch.float32).min),
}


def attended(function, heads, kv_heads):
    q, k, v = (drawn(i, 2, h, LENGTH, SIZE).requires_grad_() for i, h in enumerate((heads, kv_heads, kv_heads)))
    with mode() as exact:
        y = function(q, k, v)
        (y * y).sum().backward()
        return [exact.digits(t) for t in (y, q.grad, k.grad, v.grad)]


def by_hand(q, k, v, *, mask=None, causal=False, scale=None):
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(SIZE) if scale is None else scale)
    if causal:
        scores = scores.masked_fill(~TRIANGLE, float("-inf"))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_softmax_by_hand(kv_heads, mask, scale):
    def fused(q, k, v):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=MASKS[mask], scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )

    hand = attended(lambda q, k, v: by_hand(q, k, v, mask=MASKS[mask], scale=scale), 4, kv_heads)
    assert all(same(attended(fused, 4, kv_heads), hand))


def test_attention_by_the_kernel_that_takes_the_root_of_the_scale_agrees():
    def apart(x):
        """In a layout for which PyTorch takes its kernel of plain products."""
        return x.transpose(-2, -1).contiguous().transpose(-2, -1)

    def fused(q, k, v):
        return F.scaled_dot_product_attention(apart(q), apart(k), apart(v), scale=0.3)

    assert all(same(attended(fused, 4, 4), attended(lambda q, k, v: by_hand(q, k, v, scale=0.3), 4, 4)))


def test_causal_attention_is_softmax_by_hand_and_not_the_unmasked_one():
    def causal(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    found = attended(causal, 4, 4)
    assert all(same(found, attended(lambda q, k, v: by_hand(q, k, v, causal=True), 4, 4)))
    assert not any(same(found, attended(by_hand, 4, 4)))


def test_the_log_sum_exp_of_attention_is_the_scores():
    q, k, v = (drawn(i, 2, 4, LENGTH, SIZE) for i in range(3))
    with mode() as exact:
        _, found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
        by_hand = (q @ k.transpose(-2, -1) * (1 / math.sqrt(SIZE))).logsumexp(-1)
        assert torch.equal(exact.digits(found), exact.digits(by_hand))
        assert not torch.equal(exact.digits(found), exact.digits(by_hand * 2))


def test_attention_with_dropout_is_refused():
    q = drawn(0, 2, 4, LENGTH, SIZE)
    with mode(), pytest.raises(RandomDrawError, match="dropout"):
        F.scaled_dot_product_attention(q, q, q, dropout_p=0.5)


# Optimizers -----------------------------------------------------------------------------------------------------------


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


# Other ways of writing a step -----------------------------------------------------------------------------------------


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
