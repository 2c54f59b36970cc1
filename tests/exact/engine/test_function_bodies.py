"""Bodies of PyTorch's own functions: run with a mode on, they show it what they call."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

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


def test_backwards_have_bodies_and_other_functions_none():
    assert all(body_of(function) is not None for function in BACKWARDS)
    assert body_of(F.linear) is None
    x = torch.ones(2, requires_grad=True)
    body_of(torch.Tensor.backward)((x * 3).sum())
    assert x.grad.tolist() == [3, 3]
