"""Bodies of PyTorch's own functions: run with a mode on, they show it what they call."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.engine.probes import drawn
from torch import nn
from torch.overrides import TorchFunctionMode

from shardproof.exact import ExactArithmetic
from shardproof.exact.engine.function_bodies import BACKWARDS, body_of


class Watch(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def attend(function):
    torch.manual_seed(0)
    layer, x = nn.MultiheadAttention(4, 2), torch.randn(3, 1, 4)
    weights = (layer.in_proj_weight, layer.in_proj_bias, None, None, False, 0.0)
    return function(x, x, x, 4, 2, *weights, layer.out_proj.weight, layer.out_proj.bias, need_weights=False)[0]


def test_a_mode_sees_what_the_body_calls_and_the_result_is_the_same():
    body = body_of(F.multi_head_attention_forward)
    with Watch() as watch:
        found = attend(body)
    assert F.scaled_dot_product_attention in watch.seen
    with Watch() as whole:
        wanted = attend(F.multi_head_attention_forward)
    assert F.scaled_dot_product_attention not in whole.seen
    assert torch.equal(found, wanted)


def test_backwards_have_bodies_and_builtin_functions_and_dropout_none():
    assert all(body_of(function) is not None for function in BACKWARDS)
    assert all(body_of(function) is None for function in (F.linear, F.dropout, torch.relu, torch.Tensor.sum))
    x = torch.ones(2, requires_grad=True)
    body_of(torch.Tensor.backward)((x * 3).sum())
    assert x.grad.tolist() == [3, 3]


COMPOSITES = {
    "normalize": lambda x: F.normalize(x, dim=-1),
    "relu": F.relu,
    "relu in place": lambda x: F.relu(x * 1, inplace=True),
    "hardtanh": F.hardtanh,
    "softmin": lambda x: F.softmin(x, dim=-1),
    "tanhshrink": F.tanhshrink,
    "layer norm": lambda x: F.layer_norm(x, (4,)),
    "cross entropy": lambda x: F.cross_entropy(x, torch.arange(3)),
    "huber": lambda x: F.huber_loss(x, x * 2),
    "max pool": lambda x: F.max_pool1d(x[None], 2),
    "interpolate": lambda x: F.interpolate(x[None], scale_factor=2.0),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_composite_in_a_mode_that_opens_bodies_gives_the_same(name):
    class Open(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            body = body_of(func)
            if body is None:
                return func(*args, **(kwargs or {}))
            with self:
                return body(*args, **(kwargs or {}))

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with Open():
        found = COMPOSITES[name](x)
    assert torch.equal(found, COMPOSITES[name](x))


def normalized(x):
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12).expand_as(x)


NORMALIZE_WRONG = {
    "another eps": lambda x: F.normalize(x, dim=-1, eps=1e-6),
    "another dim": lambda x: F.normalize(x, dim=0),
    "another norm": lambda x: F.normalize(x, p=4.0, dim=-1),
}


def test_normalize_is_what_it_is_written_as_forward_and_backward():
    def digits(function):
        x = drawn(3, 4)
        with ExactArithmetic(seed=1) as exact:
            y = function(x)
            (y * torch.arange(12.0).view(3, 4)).sum().backward()
            return exact.digits(y), exact.digits(x.grad)

    right = digits(lambda x: F.normalize(x, dim=-1))
    assert all(torch.equal(a, b) for a, b in zip(right, digits(normalized), strict=True))
    for wrong in NORMALIZE_WRONG.values():
        assert all(not torch.equal(a, b) for a, b in zip(right, digits(wrong), strict=True))
