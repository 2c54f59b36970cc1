"""Dropout in exact arithmetic: an oracle of each element, the same wherever it is held, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from shardproof.exact import ExactArithmetic, RandomDrawError, SymbolError
from shardproof.exact.engine.dropout import Dropout, find_dropout, written_out_attention


def parameter(*shape, seed=0):
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))


def digits_of(program, *inputs, seed=1):
    """The residues of a program's result and of its inputs' gradients."""
    for x in inputs:
        x.grad = None
    with ExactArithmetic(seed=seed, random="oracle", check=True) as exact:
        y = program(*inputs)
        y.square().sum().backward()
        return [exact.digits(x) for x in (y, *(x.grad for x in inputs))]


def same(first, second):
    return [torch.equal(a, b) for a, b in zip(first, second, strict=True)]


FORMS = {
    "nn.Dropout": lambda x: nn.Dropout(0.3)(x * 2),
    "F.dropout": lambda x: F.dropout(x * 2, 0.3),
    "F.dropout in place": lambda x: F.dropout(x * 2, 0.3, inplace=True),
    "nn.Dropout in place": lambda x: nn.Dropout(0.3, inplace=True)(x * 2),
    "torch.dropout": lambda x: torch.dropout(x * 2, 0.3, train=True),
    "torch.dropout_": lambda x: torch.dropout_(x * 2, 0.3, train=True),
    "a probability with a rounding": lambda x: F.dropout(x * 2, 0.1 + 0.2),
    "checkpointed": lambda x: checkpoint(lambda x: F.dropout(x * 2, 0.3), x, use_reentrant=False),
    "checkpointed, reentrant": lambda x: checkpoint(lambda y: F.dropout(y, 0.3), x * 2, use_reentrant=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_one_function_forward_and_backward(form):
    x = parameter(4, 6)
    assert all(same(digits_of(FORMS[form], x), digits_of(FORMS["F.dropout"], x)))


OTHERS = {
    "another probability": lambda x: F.dropout(x * 2, 0.4),
    "dropped twice": lambda x: F.dropout(F.dropout(x * 2, 0.3), 0.3),
    "not dropped": lambda x: x * 2,
    "in evaluation": lambda x: F.dropout(x * 2, 0.3, training=False),
    "everything dropped": lambda x: F.dropout(x * 2, 1.0),
    "dropped before it is scaled": lambda x: F.dropout(x, 0.3) * 2,
    "another mask in the backward": lambda x: (
        F.dropout(x * 2, 0.3).detach() + (F.dropout(x * 2, 0.4) * 0).detach() + x - x.detach()
    ),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_function_has_other_digits(other):
    x = parameter(4, 6)
    assert not all(same(digits_of(OTHERS[other], x), digits_of(FORMS["F.dropout"], x)))


def test_the_mask_is_the_same_on_every_shard_and_another_for_every_value_key_and_prime():
    x = parameter(4, 6)
    whole = digits_of(lambda x: F.dropout(x * 2, 0.3), x)
    for dim in (0, 1):
        in_parts = digits_of(
            lambda x, dim=dim: torch.cat([F.dropout(part * 2, 0.3) for part in x.chunk(2, dim)], dim), x
        )
        assert all(same(in_parts, whole))
    assert not any(same(digits_of(lambda x: F.dropout(x * 2, 0.3), x, seed=2), whole))
    ones = digits_of(lambda x: F.dropout(torch.ones_like(x) + 0 * x, 0.3), x)[0]
    assert len(ones.unique()) == 1  # equal elements share a mask: what is not promised


def test_no_wrong_element_vanishes_behind_a_mask():
    """With zeros in the mask, one wrong element in p**2 of them would."""
    x = parameter(40, 50)
    first = digits_of(lambda x: F.dropout(x * 2, 0.5), x)[0]
    second = digits_of(lambda x: F.dropout(x * 3, 0.5), x)[0]
    assert not bool((first == second).any())
    assert not bool((first == 0).any())


def test_zero_stays_zero_and_a_partial_sum_is_not_the_sum():
    x = parameter(4, 6)
    assert not bool(digits_of(lambda x: F.dropout(x * 0, 0.3), x)[0].any())
    partial = digits_of(lambda x: F.dropout(x * 2, 0.3) + F.dropout(x * 5, 0.3), x)
    assert not any(same(partial, digits_of(lambda x: F.dropout(x * 7, 0.3), x)))


def attention(dropout, **settings):
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, **settings)


def by_hand(dropout, mask=None, repeat=1):
    def attend(q, k, v):
        k, v = k.repeat_interleave(repeat, -3), v.repeat_interleave(repeat, -3)
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        return F.dropout(scores.softmax(-1), dropout) @ v

    return attend


CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()
ADDED = torch.zeros(5, 5).masked_fill(~CAUSAL, float("-inf"))


@pytest.mark.parametrize(
    ("settings", "mask", "heads"),
    [
        ({}, None, 2),
        ({"is_causal": True}, CAUSAL, 2),
        ({"attn_mask": CAUSAL}, CAUSAL, 2),
        ({"attn_mask": ADDED}, CAUSAL, 2),
        ({"enable_gqa": True}, None, 1),
    ],
)
def test_attention_that_drops_weights_is_the_one_by_hand(settings, mask, heads):
    inputs = parameter(2, 2, 5, 4), parameter(2, heads, 5, 4, seed=1), parameter(2, heads, 5, 4, seed=2)
    fused = digits_of(attention(0.2, **settings), *inputs)
    assert all(same(fused, digits_of(by_hand(0.2, mask, 2 // heads), *inputs)))
    assert not any(same(fused, digits_of(by_hand(0.3, mask, 2 // heads), *inputs)))
    assert not any(same(fused, digits_of(attention(0.0, **settings), *inputs)))


@pytest.mark.parametrize("added", [False, True])
def test_written_out_attention_gives_a_query_that_sees_no_key_nothing(added):
    inputs = parameter(2, 2, 5, 4), parameter(2, 2, 5, 4, seed=1), parameter(2, 2, 5, 4, seed=2)
    seen = CAUSAL.clone()
    seen[1] = False
    mask = torch.zeros(5, 5).masked_fill(~seen, float("-inf")) if added else seen
    assert torch.equal(written_out_attention(*inputs, mask)[..., 1, :], torch.zeros(2, 2, 4))
    torch.testing.assert_close(written_out_attention(*inputs, mask), attention(0.0, attn_mask=mask)(*inputs))
    found = digits_of(lambda q, k, v: written_out_attention(q, k, v, mask), *inputs)
    assert all(same(found, digits_of(attention(0.0, attn_mask=mask), *inputs)))
    assert not any(same(found, digits_of(attention(0.0, attn_mask=CAUSAL), *inputs)))


@pytest.mark.parametrize("need_weights", [True, False])
def test_multi_head_attention_drops_its_weights(need_weights):
    torch.manual_seed(0)
    layer, x = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True), parameter(3, 5, 8)

    def by_heads(x):
        q, k, v = F.linear(x, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (q, k, v))
        return layer.out_proj(by_hand(0.2)(q, k, v).transpose(1, 2).flatten(-2))

    whole = digits_of(lambda x: layer(x, x, x, need_weights=need_weights)[0], x)
    assert all(same(whole, digits_of(by_heads, x)))
    layer.dropout = 0.3
    assert not any(same(whole, digits_of(lambda x: layer(x, x, x, need_weights=need_weights)[0], x)))


CHANNELS = {
    "nn.Dropout2d": lambda x: nn.Dropout2d(0.3)(x * 2),
    "nn.Dropout2d in place": lambda x: nn.Dropout2d(0.3, inplace=True)(x * 2),
    "F.dropout2d": lambda x: F.dropout2d(x * 2, 0.3),
    "torch.feature_dropout": lambda x: torch.feature_dropout(x * 2, 0.3, True),
    "F.dropout1d": lambda x: F.dropout1d((x * 2).flatten(2), 0.3).view_as(x),
    "F.dropout3d": lambda x: F.dropout3d((x * 2)[..., None], 0.3)[..., 0],
    "over samples": lambda x: torch.cat([F.dropout2d(part * 2, 0.3) for part in x.chunk(2)]),
    "over channels": lambda x: torch.cat([F.dropout2d(part * 2, 0.3) for part in x.chunk(2, 1)], 1),
    "checkpointed": lambda x: checkpoint(lambda x: F.dropout2d(x * 2, 0.3), x, use_reentrant=False),
}
OTHER_CHANNELS = {
    "of elements": lambda x: F.dropout(x * 2, 0.3),
    "another probability": lambda x: F.dropout2d(x * 2, 0.4),
    "not dropped": lambda x: x * 2,
    "of samples": lambda x: F.dropout2d((x * 2).transpose(1, 2), 0.3).transpose(1, 2),
    "over rows": lambda x: torch.cat([F.dropout2d(part * 2, 0.3) for part in x.chunk(2, 2)], 2),
}


@pytest.mark.parametrize("form", CHANNELS)
def test_a_channel_is_dropped_as_a_whole_whichever_way_it_is_written(form):
    x = parameter(2, 4, 4, 3)
    assert all(same(digits_of(CHANNELS[form], x), digits_of(CHANNELS["F.dropout2d"], x)))


@pytest.mark.parametrize("other", OTHER_CHANNELS)
def test_another_dropout_of_channels_has_other_digits(other):
    x = parameter(2, 4, 4, 3)
    assert not any(same(digits_of(OTHER_CHANNELS[other], x), digits_of(CHANNELS["F.dropout2d"], x)))


def test_a_channel_has_one_mask_which_no_normalization_makes_trivial():
    x = parameter(2, 4, 4, 3)
    with ExactArithmetic(seed=1, random="oracle") as exact, torch.no_grad():
        for y in (x * 2, F.instance_norm(x * 2)):
            masks = exact.digits(F.dropout2d(y, 0.3) / y).flatten(2)
            assert bool((masks == masks[..., :1]).all())
            assert len(masks.unique()) == 8
        assert torch.equal(exact.digits(F.dropout2d(x, 0.3, training=False)), exact.digits(x))


def test_channels_that_are_split_are_not_dropped(monkeypatch):
    class Split:
        dim = 2

        def is_shard(self):
            return True

    x = parameter(2, 4, 4, 3).detach()
    monkeypatch.setattr(torch.Tensor, "placements", [Split()], raising=False)
    with pytest.raises(ValueError, match="dropout of whole channels that are split"):
        Dropout(x=x, p=0.3, inplace=False, channels=True).mask(torch.cos)


def test_what_a_checkpoint_computes_again_is_seen_as_the_first_time():
    """A clamp is written otherwise above autograd: in the backward too, or the two passes save other tensors."""
    x = parameter(4, 6)
    plain = digits_of(lambda x: x.clamp(min=0.5), x)
    assert all(same(digits_of(lambda x: checkpoint(lambda x: x.clamp(min=0.5), x, use_reentrant=False), x), plain))


def test_gradients_asked_for_by_name_are_those_of_backward():
    x = parameter(4, 6)
    expected = digits_of(FORMS["F.dropout"], x)[1]
    with ExactArithmetic(seed=1, random="oracle") as exact:
        y = checkpoint(FORMS["F.dropout"], x, use_reentrant=False)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        assert torch.equal(exact.digits(gradient), expected)


DRAWS = {
    "alpha": lambda x: F.alpha_dropout(x, 0.3, training=True),
    "rand_like": lambda x: torch.rand_like(x) > 0.3,
    "bernoulli_": lambda x: x * torch.empty_like(x).bernoulli_(0.3),
    "native": lambda x: torch.native_dropout(x, 0.3, train=True),
    "rrelu": lambda x: F.rrelu(x, training=True),
}


@pytest.mark.parametrize("draw", DRAWS)
def test_other_draws_are_refused_and_say_what_to_do(draw):
    x = parameter(2, 3, 4)
    with (
        pytest.raises(RandomDrawError, match=r"write a mask of your own as F\.dropout"),
        ExactArithmetic(random="oracle"),
    ):
        DRAWS[draw](x * 2)


def test_a_mask_of_minus_infinity_is_not_dropped():
    x = parameter(4, 4)
    with pytest.raises(SymbolError), ExactArithmetic(random="oracle"):
        F.dropout((x * 2).masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), float("-inf")), 0.3)


def test_a_bad_probability_is_pytorchs_own_error():
    x = parameter(3)
    with pytest.raises(ValueError, match="between 0 and 1"), ExactArithmetic(random="oracle"):
        F.dropout(x, 1.5)


def test_a_mask_is_one_gate_and_has_a_bound():
    x = parameter(4, 6)
    with ExactArithmetic(seed=1, random="oracle") as exact:
        bound = exact.bound(F.dropout(x, 0.3))
        without = exact.bound(x * 1)
        assert bound.probability is not None
        assert without.probability < bound.probability < 1e-4


def test_only_calls_that_drop_are_dropouts():
    x = torch.randn(3)
    assert find_dropout(F.dropout, (x,), {"p": 0.5}).p == 0.5
    assert find_dropout(F.dropout, (x,), {"p": 0.5, "training": False}) is None
    assert find_dropout(F.dropout, (x, 0.0), {}) is None
    assert find_dropout(torch.dropout, (x, 0.5, False), {}) is None
    assert find_dropout(F.relu, (x,), {}) is None
    assert find_dropout(torch.dropout_, (x, 0.5, True), {}).inplace
