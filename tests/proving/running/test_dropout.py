"""Dropout in ordinary runs: a stand-in that draws nothing and depends on the element alone, and the masks drawn."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from shardproof.proving.records import Key, Phase
from shardproof.proving.running.capture import Recorder
from shardproof.proving.running.dropout import dropout_standing_in, masks_drawn

X = torch.tensor([[0.5, 2.0, 0.5], [3.0, -1.0, 2.0]], dtype=torch.float64)


def stand_in(x, p):
    return x * (1 + p * torch.cos(x))


@pytest.mark.parametrize(
    "call",
    [lambda x: F.dropout(x, 0.3), nn.Dropout(0.3), lambda x: torch.dropout(x, 0.3, True)],
    ids=["F.dropout", "nn.Dropout", "torch.dropout"],
)
def test_the_stand_in_is_a_function_of_the_element_and_draws_nothing(call):
    before = torch.get_rng_state()
    with dropout_standing_in():
        found = call(X)
    torch.testing.assert_close(found, stand_in(X, 0.3))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(F.dropout(X, 0.3), found)  # the control: outside it is PyTorch's own again


def test_replicas_see_the_same_and_shards_their_part():
    with dropout_standing_in():
        whole, shard = F.dropout(X, 0.3), F.dropout(X[:, 1:], 0.3)
    assert torch.equal(whole[:, 1:], shard)


def test_a_channel_has_one_stand_in_and_one_mask():
    x = torch.linspace(-1, 2, 24, dtype=torch.float64).view(2, 3, 2, 2)
    with dropout_standing_in() as called:
        found = nn.Dropout2d(0.3)(x)
    factors = (found / x).flatten(2)
    torch.testing.assert_close(factors, factors[..., :1].expand_as(factors))
    assert len(factors[..., 0].unique()) == 6
    assert called == [0.3]
    masks = {}
    with masks_drawn(Recorder(), masks):
        nn.Dropout2d(0.3)(x.repeat(8, 8, 1, 1))
    (mask,) = masks.values()
    channels = mask.mask.view(16, 24, 4)
    assert torch.equal(channels, channels[..., :1].expand_as(channels))
    assert 0 < int(channels[..., 0].sum()) < 16 * 24


def test_in_evaluation_nothing_is_dropped():
    with dropout_standing_in() as called:
        assert torch.equal(nn.Dropout(0.3).eval()(X), X)
    assert called == []


def test_each_call_is_told_attention_too():
    with dropout_standing_in() as called:
        F.dropout(X, 0.3)
        F.scaled_dot_product_attention(X, X, X, dropout_p=0.1)
    assert called == [0.3, 0.1]


def test_a_checkpoint_computes_the_same_again():
    x = X.clone().requires_grad_()
    with dropout_standing_in():
        checkpoint(lambda x: F.dropout(x, 0.3), x, use_reentrant=False).sum().backward()
    torch.testing.assert_close(x.grad, 1 + 0.3 * torch.cos(X))


def test_each_call_draws_a_mask_under_the_module_that_runs():
    recorder, masks = Recorder(step=1, running=["model", "inside"]), {}
    torch.manual_seed(0)
    with masks_drawn(recorder, masks):
        out = F.dropout(X, 0.3)
        F.dropout(X, 0.3)
    assert list(masks) == [Key(1, Phase.MASK, "inside", call) for call in range(2)]
    first, second = masks.values()
    torch.testing.assert_close(out, stand_in(X, 0.3))  # the values go on as in every ordinary run
    assert torch.equal(first.values, X.reshape(-1))
    assert not torch.equal(first.mask, second.mask)
    assert not first.by_dtensor
    torch.manual_seed(0)
    assert torch.equal(first.mask, F.dropout(torch.ones(6), 0.5) != 0)


def test_outside_any_module_the_model_draws():
    masks = {}
    with masks_drawn(Recorder(), masks):
        F.dropout(X, 0.3)
    assert [key.name for key in masks] == ["model"]
