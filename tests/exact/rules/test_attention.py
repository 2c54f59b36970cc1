"""Attention in its fused forms against softmax by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from tests.exact.rules.integers import mode

from shardproof.exact import RandomDrawError


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(first, second):
    return [torch.equal(a, b) for a, b in zip(first, second, strict=True)]


LENGTH, SIZE = 5, 8


TRIANGLE = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()


LEFT_PADDED = torch.ones(2, 1, LENGTH, LENGTH, dtype=torch.bool).tril()


LEFT_PADDED[1, :, :, 0] = False


MASKS = {
    "none": None,
    "bool": TRIANGLE,
    "float": torch.zeros(LENGTH, LENGTH).masked_fill(~TRIANGLE, float("-inf")),
    "a bias by distance": -torch.arange(LENGTH).float().sub(torch.arange(LENGTH)[:, None]).abs() / 2,
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


@pytest.mark.parametrize("apart", [False, True])
def test_a_query_that_sees_no_key_takes_nothing(apart):
    """As PyTorch's kernels have it, of which the one of plain products takes inputs in another layout."""
    mask = TRIANGLE.clone()
    mask[1] = False
    seen = mask.any(-1)[:, None]

    def fused(q, k, v):
        q, k, v = (x.mT.contiguous().mT if apart else x for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def hand(q, k, v, *, others=True):
        weights = (q @ k.mT / math.sqrt(SIZE)).masked_fill(~mask, torch.finfo(q.dtype).min).softmax(-1)
        return (weights.masked_fill(~seen, 0.0) if others else weights) @ v

    assert all(same(attended(fused, 4, 4), attended(hand, 4, 4)))
    assert not all(same(attended(fused, 4, 4), attended(lambda *given: hand(*given, others=False), 4, 4)))


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


@pytest.mark.parametrize("sizes", [(3, 4, 2, 3, 4), (4, 4, 2, 3, 5), (3, 4, 2, 3, 2), (2, 6, 3, 2, 3)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_fused_op_and_its_backward_by_hand(sizes, scale):
    """As PyTorch's dispatcher calls them, with a scale; sizes that are equal to another dim's number of heads."""
    batch, heads, kv_heads, queries, keys = sizes
    q, grad = drawn(0, batch, heads, queries, SIZE), drawn(1, batch, heads, queries, SIZE)
    k, v = (drawn(i, batch, kv_heads, keys, SIZE) for i in (2, 3))
    for x in (q, k, v):
        x.requires_grad_()
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    with mode() as exact, torch.no_grad():
        y, log_sum_exp = forward(q, k, v, scale=scale)
        slopes = backward(grad, q, k, v, y, log_sum_exp, 0.0, False, scale=scale)
        found = [exact.digits(x) for x in (y, *slopes)]
    with mode() as exact:
        y = by_hand(q, k, v, scale=scale)
        y.backward(grad)
        hand = [exact.digits(x) for x in (y, q.grad, k.grad, v.grad)]
        other = exact.digits(by_hand(q, k, v, scale=0.25))
    assert [x.shape for x in found] == [x.shape for x in (q, q, k, v)]
    assert all(same(found, hand))
    assert not torch.equal(found[0], other)


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
