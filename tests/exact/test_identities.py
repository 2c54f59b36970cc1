"""Identities: ways of writing one function that exact arithmetic takes for one, and ways that it does not promise.

Every identity is checked forward and backward through autograd, from several seeds and shapes, with a planted bug
beside it that must be seen. One that is not promised must really differ, though float64 takes both for one: so that the
list in docs/exact.md stays honest. The names here are the names there.
"""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.exact import piecewise_identities
from tests.exact.identity import Identity

from shardproof.exact import ExactArithmetic

# A prime with the square roots of 2, 3, 5, 7 and 11, like every prime of `choose_prime`, with smaller tables.
PRIME = 65831

DOCS = Path(__file__).parents[2] / "docs" / "exact.md"


def inputs_of(identity, n, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in identity.shapes(n)]
    return [x.abs() + 0.1 if identity.positive else x for x in drawn]


def forward_and_backward(function, inputs, *, seed=None):
    """The result and the inputs' gradients under a random cotangent: digits for a seed, float64 without one.

    The cotangent is an input too, as inside a model, where gradients are residues: a constant is another case, of which
    products may be known as real numbers.
    """
    leaves = [x.clone().requires_grad_() for x in inputs]
    cotangents = torch.linspace(-1.9, 2.3, 1024, dtype=torch.float64).requires_grad_()

    def run():
        out = function(*leaves)
        (out * cotangents[: out.numel()].view(out.shape)).sum().backward()
        return [out, *(x.grad if x.grad is not None else torch.zeros_like(x) for x in leaves)]

    if seed is None:
        return [x.detach() for x in run()]
    with ExactArithmetic(seed=seed, prime=PRIME) as exact:
        return [exact.digits(x) for x in run()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# The identities -------------------------------------------------------------------------------------------------------


def softmax_over_shards(x, shards=2, *, shift=True):
    parts = x.tensor_split(shards, -1)
    largest = torch.stack([p.detach().amax(-1, keepdim=True) for p in parts]).amax(0)
    powers = [(p - largest if shift else p).exp() for p in parts]
    total = sum(p.sum(-1, keepdim=True) for p in powers)
    return torch.cat([p / total for p in powers], -1)


LABELS = torch.tensor([0, 2, 1])


def _log_softmax_written_out(x, more):
    shifted = x - x.amax(-1, keepdim=True)
    return shifted - (shifted.exp().sum(-1, keepdim=True) + more).log()


def cross_entropy_over_shards(x, shards=2, *, own_maximum=False):
    """The vocabulary split over ranks: the maximum, the sum and the target's logit are each all-reduced."""
    parts = x.tensor_split(shards, -1)
    largest = torch.stack([p.detach().amax(-1) for p in parts]).amax(0)
    total, picked, start = 0, 0, 0
    for part in parts:
        shifted = part - (part.detach().amax(-1) if own_maximum else largest)[:, None]
        total = total + shifted.exp().sum(-1)
        here = (start <= LABELS) & (start + part.shape[-1] > LABELS)
        index = (LABELS - start).clamp(0, part.shape[-1] - 1)
        picked = picked + torch.where(here, shifted.gather(-1, index[:, None])[:, 0], 0.0)
        start += part.shape[-1]
    return (total.log() - picked).mean()


def attention(q, k, v, *, scale=None, causal=False):
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), float("-inf"))
    return scores.softmax(-1) @ v


def layer_norm(x, w, b, *, eps=1e-5, unbiased=False):
    mean = x.mean(-1, keepdim=True)
    variance = x.var(-1, keepdim=True, correction=1 if unbiased else 0)
    return (x - mean) / torch.sqrt(variance + eps) * w + b


def rms_norm_over_shards(x, shards=2, *, own_count=False):
    parts = x.tensor_split(shards, -1)
    squares = sum(p.square().sum(-1, keepdim=True) for p in parts)
    scale = torch.rsqrt(squares / (parts[0] if own_count else x).shape[-1] + 1e-6)
    return torch.cat([p * scale for p in parts], -1)


def norm_of_norms(*parts):
    return torch.stack([torch.linalg.vector_norm(p) for p in parts]).norm()


def clipped(*parts, norm):
    return torch.cat([p.flatten() for p in parts]) * torch.clamp(1.0 / (norm + 1e-6), max=1.0)


def whole_norm(*parts):
    return torch.cat([p.flatten() for p in parts]).norm()


def rotate(x, angles):
    even, odd = x[..., 0], x[..., 1]
    return torch.stack((even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()), -1)


def rotate_complex(x, angles):
    return torch.view_as_real(torch.view_as_complex(x) * torch.polar(torch.ones_like(angles), angles))


ATTENTION = {"shapes": lambda n: [(2, 2, 3, n), (2, 2, 3, n), (2, 2, 3, n)], "places": 6}
PARTS = {"shapes": lambda n: [(n,), (2, n), ()]}


def _over_sum(powers):
    return powers / powers.sum(-1, keepdim=True)


def online_softmax(x, *, rescaled=True):
    """Over two blocks of a row, the sum rescaled where the maximum grows. Milakov and Gimelshein 2018."""
    first, second = x.tensor_split(2, -1)
    before = first.amax(-1, keepdim=True)
    largest = torch.maximum(before, second.amax(-1, keepdim=True))
    total = (first - before).exp().sum(-1, keepdim=True)
    total = (total * (before - largest).exp() if rescaled else total) + (second - largest).exp().sum(-1, keepdim=True)
    return (x - largest).exp() / total


def merged_by_sigmoid(x, *, swapped=False):
    """The log-sum-exp of two blocks, as PyTorch's context parallelism merges them."""
    a, b = (part.logsumexp(-1) for part in x.tensor_split(2, -1))
    return a - F.logsigmoid(b - a if swapped else a - b)


def attention_over_blocks(q, k, v, *, weighed=True):
    """Attention to two blocks of keys, each with its own softmax, merged by their log-sum-exps."""
    outs, sums = [], []
    for keys, values in zip(k.tensor_split(2), v.tensor_split(2), strict=True):
        scores = q @ keys.T
        largest = scores.detach().amax(-1, keepdim=True)
        exps = (scores - largest).exp()
        total = exps.sum(-1, keepdim=True)
        outs.append(exps @ values / total)
        sums.append(largest + total.log())
    both = torch.logaddexp(*sums)
    return sum(out * ((each - both).exp() if weighed else 0.5) for out, each in zip(outs, sums, strict=True))


HOLD = [
    Identity(
        name="a matrix product is the sum of the products over a split inner dimension",
        left=lambda a, b: a @ b,
        right=lambda a, b: a[:, :1] @ b[:1] + a[:, 1:] @ b[1:],
        wrong=lambda a, b: a[:, :1] @ b[:1] + a[:, 1:2] @ b[1:2],
        shapes=lambda n: [(3, n), (n, 4)],
    ),
    Identity(
        name="softmax over shards, its maximum and its sum all-reduced",
        left=lambda x: x.softmax(-1),
        right=softmax_over_shards,
        wrong=lambda x: torch.cat([p.softmax(-1) for p in x.tensor_split(2, -1)], -1),
    ),
    Identity(
        name="a vocabulary-parallel cross-entropy, its maximum all-reduced",
        left=lambda x: F.cross_entropy(x, LABELS),
        right=cross_entropy_over_shards,
        wrong=lambda x: cross_entropy_over_shards(x, own_maximum=True),
    ),
    Identity(
        name="cross-entropy is the negative log-softmax at the label",
        left=lambda x: F.cross_entropy(x, LABELS, reduction="sum"),
        right=lambda x: F.nll_loss(x.log_softmax(-1), LABELS, reduction="sum"),
        wrong=lambda x: F.nll_loss(x.log_softmax(-1), LABELS.flip(0), reduction="sum"),
    ),
    Identity(
        name="a mean loss is the sum of the shards' sums over the count of all valid tokens",
        left=lambda x: F.cross_entropy(x, torch.tensor([0, -100, 1])),
        right=lambda x: (F.cross_entropy(x[:1], LABELS[:1], reduction="sum") + F.cross_entropy(x[2:], LABELS[2:])) / 2,
        wrong=lambda x: (F.cross_entropy(x[:1], LABELS[:1], reduction="sum") + F.cross_entropy(x[2:], LABELS[2:])) / 3,
    ),
    Identity(
        name="the exponential of a log-softmax is the softmax",
        left=lambda x: x.softmax(-1),
        right=lambda x: x.log_softmax(-1).exp(),
        wrong=lambda x: x.log_softmax(-1).exp() * 2,
    ),
    Identity(
        name="and so is that of x - max(x) - log(sum(exp(x - max(x)))), as loss_parallel has it, forward",
        backward=False,
        left=lambda x: x.softmax(-1),
        right=lambda x: _log_softmax_written_out(x, 0).exp(),
        wrong=lambda x: _log_softmax_written_out(x, 1).exp(),
    ),
    Identity(
        name="softmax is exp(x) / sum(exp(x)), whatever maximum is subtracted before",
        left=lambda x: x.softmax(-1),
        right=lambda x: softmax_over_shards(x, shift=False),
        wrong=lambda x: torch.cat([part.softmax(-1) for part in x.tensor_split(2, -1)], -1),
    ),
    Identity(
        name="softmax of c x is exp(c (x - max(x))) over its sum",
        left=lambda x: (x * 0.3).softmax(-1),
        right=lambda x: _over_sum(((x - x.amax(-1, keepdim=True)) * 0.3).exp()),
        wrong=lambda x: _over_sum((x * 0.3 - x.amax(-1, keepdim=True) * 0.2).exp() + x),
    ),
    Identity(
        name="softmax is the online softmax of blocks, rescaled where the maximum grows",
        left=lambda x: x.softmax(-1),
        right=online_softmax,
        wrong=lambda x: online_softmax(x, rescaled=False),
    ),
    Identity(
        name="softmax is exp(x - logsumexp(x)), and logsumexp's gradient",
        left=lambda x: x.softmax(-1),
        right=lambda x: (x - x.logsumexp(-1, keepdim=True)).exp(),
        wrong=lambda x: (x - x[:, 1:].logsumexp(-1, keepdim=True)).exp(),
    ),
    Identity(
        name="logsumexp is max(x) + log(sum(exp(x - max(x)))), the maximum detached",
        left=lambda x: x.logsumexp(-1),
        right=lambda x: (x - x.detach().amax(-1, keepdim=True)).exp().sum(-1).log() + x.detach().amax(-1),
        wrong=lambda x: (x - x.detach().amax(-1, keepdim=True)).exp().sum(-1).log() + x.detach()[:, 0],
    ),
    Identity(
        name="logsumexp is that of the logsumexps of blocks",
        left=lambda x: x.logsumexp(-1),
        right=lambda x: torch.logaddexp(*(part.logsumexp(-1) for part in x.tensor_split(2, -1))),
        wrong=lambda x: sum(part.logsumexp(-1) for part in x.tensor_split(2, -1)),
    ),
    Identity(
        name="logsumexp is a - logsigmoid(a - b), a and b those of two blocks",
        left=lambda x: x.logsumexp(-1),
        right=merged_by_sigmoid,
        wrong=lambda x: merged_by_sigmoid(x, swapped=True),
    ),
    Identity(
        name="attention is the attentions to blocks of keys, weighed by their logsumexps",
        left=lambda q, k, v: (q @ k.T).softmax(-1) @ v,
        right=attention_over_blocks,
        wrong=lambda q, k, v: attention_over_blocks(q, k, v, weighed=False),
        shapes=lambda n: [(3, 4), (n, 4), (n, 2)],
    ),
    Identity(
        name="a z-loss is the square of max(x) + log(sum(exp(x - max(x))))",
        left=lambda x: x.logsumexp(-1) ** 2,
        right=lambda x: (x.amax(-1) + (x - x.amax(-1, keepdim=True)).exp().sum(-1).log()) ** 2,
        wrong=lambda x: (x - x.amax(-1, keepdim=True)).exp().sum(-1).log() ** 2,
    ),
    Identity(
        name="log(a b) = log(a) + log(b), and log(a / b) = log(a) - log(b)",
        left=lambda a, b: torch.cat([(a * b).log(), (a / b).log()]),
        right=lambda a, b: torch.cat([a.log() + b.log(), a.log() - b.log()]),
        wrong=lambda a, b: torch.cat([a.log() + b.log(), b.log() - a.log()]),
        shapes=lambda n: [(3, n), (3, n)],
        positive=True,
    ),
    Identity(
        name="exp(log(a) - log(b)) is a / b",
        left=lambda a, b: a / b,
        right=lambda a, b: (a.log() - b.log()).exp(),
        wrong=lambda a, b: (a.log() + b.log()).exp(),
        shapes=lambda n: [(3, n), (3, n)],
        positive=True,
    ),
    Identity(
        name="logsumexp is max(x) + log(sum(exp(x - max(x)))), forward",
        backward=False,
        left=lambda x: x.logsumexp(-1),
        right=lambda x: (x - x.detach().amax(-1, keepdim=True)).exp().sum(-1).log() + x.detach().amax(-1),
        wrong=lambda x: (x - x.detach().amax(-1, keepdim=True)).exp().sum(-1).log(),
    ),
    Identity(
        name="scaled_dot_product_attention is softmax(Q K^T / sqrt(d)) V",
        left=F.scaled_dot_product_attention,
        right=attention,
        wrong=lambda q, k, v: attention(q, k, v, scale=q.shape[-1] ** -1),
        **ATTENTION,
    ),
    Identity(
        name="causal attention is the same with -inf above the diagonal",
        left=lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        right=lambda q, k, v: attention(q, k, v, causal=True),
        wrong=attention,
        **ATTENTION,
    ),
    Identity(
        name="layer norm by hand",
        left=lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b),
        right=layer_norm,
        wrong=lambda x, w, b: layer_norm(x, w, b, unbiased=True),
        shapes=lambda n: [(3, n), (n,), (n,)],
    ),
    Identity(
        name="RMS norm over shards, the sum of squares all-reduced",
        left=lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-6),
        right=rms_norm_over_shards,
        wrong=lambda x: rms_norm_over_shards(x, own_count=True),
    ),
    Identity(
        name="group norm of one group is layer norm",
        left=lambda x: F.group_norm(x, 1),
        right=lambda x: F.layer_norm(x, x.shape[1:]),
        wrong=lambda x: F.layer_norm(x, x.shape[1:], eps=1e-4),
    ),
    Identity(
        name="the variance is the mean square less the squared mean",
        left=lambda x: x.var(-1, correction=0),
        right=lambda x: x.square().mean(-1) - x.mean(-1).square(),
        wrong=lambda x: x.square().mean(-1) - x.mean(-1),
    ),
    Identity(
        name="a norm is the norm of the norms of any parts",
        left=whole_norm,
        right=norm_of_norms,
        wrong=lambda *parts: norm_of_norms(*parts[:2]),
        **PARTS,
    ),
    Identity(
        name="clipping by the norm of norms",
        left=lambda *parts: clipped(*parts, norm=whole_norm(*parts)),
        right=lambda *parts: clipped(*parts, norm=norm_of_norms(*parts)),
        wrong=lambda *parts: clipped(*parts, norm=norm_of_norms(*parts[:2])),
        **PARTS,
    ),
    Identity(
        name="silu is x * sigmoid(x)",
        left=F.silu,
        right=lambda x: x * torch.sigmoid(x),
        wrong=lambda x: x * torch.sigmoid(1.1 * x),
    ),
    Identity(
        name="sigmoid is 1 / (1 + exp(-x)) and (1 + tanh(x / 2)) / 2",
        left=lambda x: torch.sigmoid(x) * 2,
        right=lambda x: 1 / (1 + torch.exp(-x)) + (1 + torch.tanh(x / 2)) / 2,
        wrong=lambda x: 1 / (1 + torch.exp(x)) + (1 + torch.tanh(x / 2)) / 2,
    ),
    Identity(
        name="sigmoid(-x) is 1 - sigmoid(x), and tanh is odd",
        left=lambda x: torch.sigmoid(-x) + torch.tanh(-x),
        right=lambda x: 1 - torch.sigmoid(x) - torch.tanh(x),
        wrong=lambda x: 1 - torch.sigmoid(x) + torch.tanh(x),
    ),
    Identity(
        name="the logarithm of a softmax is the log-softmax, fused or written out",
        left=lambda x: torch.cat([x.log_softmax(-1), x.log_softmax(-1)]),
        right=lambda x: torch.cat([x.softmax(-1).log(), softmax_written_out(x).log()]),
        wrong=lambda x: torch.cat([x.softmax(0).log(), softmax_written_out(x).log()]),
    ),
    Identity(
        name="cross-entropy is -log(p) at the label, p = softmax(x), by an index, by a product with a one-hot target",
        left=lambda x: 2 * F.cross_entropy(x, LABELS),
        right=lambda x: (
            -x.softmax(-1)[torch.arange(3), LABELS].log().mean()
            - (F.one_hot(LABELS, x.shape[-1]) * x.softmax(-1).log()).sum(-1).mean()
        ),
        wrong=lambda x: (
            -x.softmax(-1)[torch.arange(3), LABELS].log().mean()
            - (F.one_hot(LABELS.flip(0), x.shape[-1]) * x.softmax(-1).log()).sum(-1).mean()
        ),
    ),
    Identity(
        name="label smoothing by hand, of log-probabilities or of softmax's logarithms",
        left=lambda x: 2 * F.cross_entropy(x, LABELS, label_smoothing=0.1),
        right=lambda x: (
            -((smoothed(x) * x.softmax(-1).log()).sum(-1) + (smoothed(x) * x.log_softmax(-1)).sum(-1)).mean()
        ),
        wrong=lambda x: -(smoothed(x, kept=0.8) * x.softmax(-1).log()).sum(-1).mean() * 2,
        places=6,
    ),
    Identity(
        name="the focal loss, by p or by exp(-cross-entropy)",
        left=lambda x: focal(x, p=x.softmax(-1)[torch.arange(3), LABELS]),
        right=lambda x: focal(x, p=torch.exp(-F.cross_entropy(x, LABELS, reduction="none"))),
        wrong=lambda x: focal(x, p=torch.exp(-F.cross_entropy(x, LABELS.flip(0), reduction="none"))),
    ),
    Identity(
        name="the entropy of a softmax is -sum(p log(p)), logsumexp(x) - sum(p x) and sum(entr(p))",
        left=lambda x: -2 * (x.softmax(-1) * x.log_softmax(-1)).sum(-1),
        right=lambda x: x.logsumexp(-1) - (x.softmax(-1) * x).sum(-1) + torch.special.entr(x.softmax(-1)).sum(-1),
        wrong=lambda x: x.logsumexp(-1) - (x.softmax(0) * x).sum(-1) + torch.special.entr(x.softmax(-1)).sum(-1),
    ),
    Identity(
        name="kl_div is sum(q (log(q) - log(p))) and sum(q log(q / p))",
        left=lambda x, y: 2 * F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="batchmean"),
        right=lambda x, y: divergence(x.softmax(-1), y.softmax(-1)) / x.shape[0],
        wrong=lambda x, y: divergence(y.softmax(-1), x.softmax(-1)) / x.shape[0],
        shapes=lambda n: [(3, n), (3, n)],
    ),
    Identity(
        name="softmin is the softmax of -x",
        left=lambda x: F.softmin(x, -1),
        right=lambda x: _over_sum((-x).exp()),
        wrong=lambda x: _over_sum(x.exp()),
    ),
    Identity(
        name="logaddexp(a, b) is log(exp(a) + exp(b)) and the logsumexp of both, forward",
        backward=False,
        left=lambda a, b: torch.logaddexp(a, b).expand(2, -1, -1),
        right=lambda a, b: torch.stack([(a.exp() + b.exp()).log(), torch.stack([a, b]).logsumexp(0)]),
        wrong=lambda a, b: torch.stack([(a.exp() - b.exp()).log(), torch.stack([a, b]).logsumexp(0)]),
        shapes=lambda n: [(3, n), (3, n)],
    ),
    Identity(
        name="softplus(x) is x + softplus(-x)",
        left=F.softplus,
        right=lambda x: x + F.softplus(-x),
        wrong=lambda x: F.softplus(-x) - x,
    ),
    Identity(
        name="softplus(x) is max(x, 0) + log(1 + exp(-|x|)), and where(x > 0, x + log1p(exp(-x)), log1p(exp(x)))",
        left=lambda x: 2 * F.softplus(x),
        right=lambda x: (
            x.clamp(min=0)
            + torch.log1p(torch.exp(-x.abs()))
            + torch.where(x > 0, x + torch.log1p(torch.exp(-x)), torch.log1p(torch.exp(x)))
        ),
        wrong=lambda x: (
            x.clamp(min=0)
            + torch.log1p(torch.exp(-x.abs()))
            + torch.where(x > 0, torch.log1p(torch.exp(-x)), torch.log1p(torch.exp(x)))
        ),
    ),
    Identity(
        name="softplus(x) is logaddexp(x, 0), -log(sigmoid(-x)) and -log(1 - sigmoid(x))",
        left=lambda x: 3 * F.softplus(x),
        right=lambda x: (
            torch.logaddexp(x, torch.zeros_like(x)) - torch.sigmoid(-x).log() - torch.log(1 - torch.sigmoid(x))
        ),
        wrong=lambda x: torch.logaddexp(x, torch.ones_like(x)) - 2 * torch.sigmoid(-x).log(),
    ),
    Identity(
        name="logsigmoid(x) is min(x, 0) - log(1 + exp(-|x|)), log(sigmoid(x)) and x - softplus(x)",
        left=lambda x: 3 * F.logsigmoid(x),
        right=lambda x: x.clamp(max=0) - torch.log1p(torch.exp(-x.abs())) + torch.sigmoid(x).log() + x - F.softplus(x),
        wrong=lambda x: x.clamp(max=0) - torch.log1p(torch.exp(-x.abs())) + 2 * torch.sigmoid(-x).log(),
    ),
    Identity(
        name="binary cross-entropy with logits is max(x, 0) - x y + log(1 + exp(-|x|))",
        left=lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
        right=lambda x, y: x.clamp(min=0) - x * y + torch.log1p(torch.exp(-x.abs())),
        wrong=lambda x, y: x.clamp(min=0) - x * y + torch.log1p(torch.exp(-x)),
        shapes=lambda n: [(3, n), (3, n)],
    ),
    Identity(
        name="and softplus(x) - x y, and that of sigmoid(x), fused or by hand",
        left=lambda x, y: 3 * F.binary_cross_entropy_with_logits(x, y.sigmoid()),
        right=lambda x, y: bce_by_hand(x, y.sigmoid()) + F.binary_cross_entropy(x.sigmoid(), y.sigmoid()),
        wrong=lambda x, y: bce_by_hand(x, 1 - y.sigmoid()) + F.binary_cross_entropy(x.sigmoid(), y.sigmoid()),
        shapes=lambda n: [(3, n), (3, n)],
    ),
    Identity(
        name="with a weight of the positive class it is (1 - y) x + (1 + (w - 1) y) (max(-x, 0) + log(1 + exp(-|x|)))",
        left=lambda x, y: F.binary_cross_entropy_with_logits(x, y, pos_weight=torch.tensor(3.0)),
        right=lambda x, y: weighted_bce_by_hand(x, y, 3),
        wrong=lambda x, y: weighted_bce_by_hand(x, y, 2),
        shapes=lambda n: [(3, n), (3, n)],
    ),
    Identity(
        name="sigmoid is exp(x) / (1 + exp(x)), and where(x >= 0, 1 / (1 + exp(-x)), exp(x) / (1 + exp(x)))",
        left=lambda x: 2 * x.sigmoid(),
        right=lambda x: x.exp() / (1 + x.exp()) + torch.where(x >= 0, 1 / (1 + torch.exp(-x)), x.exp() / (1 + x.exp())),
        wrong=lambda x: x.exp() / (1 + x.exp()) + torch.where(x >= 0, 1 / (1 + torch.exp(-x)), x.exp() / (2 + x.exp())),
    ),
    Identity(
        name="tanh is (exp(2 x) - 1) / (exp(2 x) + 1) and (1 - exp(-2 x)) / (1 + exp(-2 x))",
        left=lambda x: 2 * x.tanh(),
        right=lambda x: (
            (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1) + (1 - torch.exp(-2 * x)) / (1 + torch.exp(-2 * x))
        ),
        wrong=lambda x: (
            (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1) + (1 - torch.exp(-2 * x)) / (2 + torch.exp(-2 * x))
        ),
    ),
    Identity(
        name="mish is x tanh(softplus(x)), and x (n - 1) / (n + 1), n = (1 + exp(x))**2",
        left=lambda x: 2 * F.mish(x),
        right=lambda x: x * torch.tanh(F.softplus(x)) + x * ((n := (1 + x.exp()) ** 2) - 1) / (n + 1),
        wrong=lambda x: x * torch.tanh(F.softplus(-x)) + x * ((n := (1 + x.exp()) ** 2) - 1) / (n + 1),
    ),
    Identity(
        name="softplus is log(1 + exp(x)), and logsigmoid(x) is -softplus(-x)",
        left=lambda x: F.softplus(x) - F.logsigmoid(-x),
        right=lambda x: 2 * torch.log1p(torch.exp(x)),
        wrong=lambda x: 2 * torch.log1p(torch.exp(-x)),
    ),
    Identity(
        name="log(exp(x)) is x",
        left=lambda x: x.exp().log(),
        right=lambda x: x * 1,
        wrong=lambda x: (2 * x.exp()).log(),
    ),
    Identity(
        name="exp(log(x)) is x",
        left=lambda x: x.log().exp(),
        right=lambda x: x * 1,
        wrong=lambda x: x.log().exp() + 1,
        positive=True,
    ),
    Identity(
        name="exp(-x) exp(x) is 1",
        left=lambda x: torch.exp(-x) * torch.exp(x),
        right=lambda x: 0 * x + 1,
        wrong=lambda x: 0 * x + 2,
    ),
    Identity(
        name="tanh(0), erf(0) and sin(0) are 0, and cos(0) is 1",
        left=lambda x: torch.tanh(0 * x) + torch.erf(x - x) + torch.sin(0 * x) + torch.cos(0 * x),
        right=lambda x: torch.ones_like(x) * (1 + 0 * x) + x - x,
        wrong=lambda x: torch.ones_like(x) * (2 + 0 * x) + x - x,
    ),
    Identity(
        name="cos is even, sin and erf are odd",
        left=lambda x: torch.cos(-x) + torch.sin(-x) + torch.erf(-x),
        right=lambda x: torch.cos(x) - torch.sin(x) - torch.erf(x),
        wrong=lambda x: torch.cos(x) + torch.sin(x) - torch.erf(x),
    ),
    Identity(
        name="rsqrt is 1 / sqrt, and sqrt is x**0.5",
        left=lambda x: torch.rsqrt(x) + x.sqrt(),
        right=lambda x: 1 / torch.sqrt(x) + x**0.5,
        wrong=lambda x: 1 / torch.sqrt(x) + (2 * x) ** 0.5,
        positive=True,
    ),
    Identity(
        name="x**-0.5 is rsqrt, and x**1.5 is x sqrt(x), forward",
        left=lambda x: x**1.5 + x**-0.5,
        right=lambda x: x * torch.sqrt(x) + torch.rsqrt(x),
        wrong=lambda x: x * torch.sqrt(x) + torch.rsqrt(2 * x),
        positive=True,
        backward=False,
    ),
    Identity(
        name="sqrt(x)**2 is x, through views, stack and cat",
        left=lambda x: torch.cat([torch.stack([x.sqrt().T, x.sqrt().mT])[0].square(), x.sqrt().T.reshape(-1, 3) ** 2]),
        right=lambda x: torch.cat([x.T, x.T]),
        wrong=lambda x: torch.cat([x.T, 2 * x.T]),
        positive=True,
    ),
    Identity(
        name="sqrt(v / c) is sqrt(v) / sqrt(c), c a number between 0 and 1 as Adam's bias correction, forward",
        left=lambda v: (v / (1 - 0.999**3)).sqrt(),
        right=lambda v: v.sqrt() / (1 - 0.999**3) ** 0.5,
        wrong=lambda v: v.sqrt() / (1 - 0.999**2) ** 0.5,
        positive=True,
        backward=False,
    ),
    Identity(
        name="F.normalize is x over its norm, clamped",
        left=lambda x: F.normalize(x, dim=-1),
        right=lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12),
        wrong=lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1),
        places=6,
    ),
    Identity(
        name="gelu is x (1 + erf(x / sqrt(2))) / 2",
        left=F.gelu,
        right=lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        wrong=lambda x: 0.5 * x * (1 + torch.erf(x / 2)),
    ),
    Identity(
        name="gelu by tanh is x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))) / 2",
        left=lambda x: F.gelu(x, approximate="tanh"),
        right=lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x))) * 0.5,
        wrong=lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x))) * 0.5,
    ),
    Identity(
        name="a constant is the same as a scalar, in float32 and in float64",
        left=lambda x: x * 0.1 + x * 0.1,
        right=lambda x: x * torch.tensor(0.1) + x / torch.tensor(10.0, dtype=torch.float64),
        wrong=lambda x: x * torch.tensor(0.1) + x * torch.tensor(0.101, dtype=torch.float64),
        places=6,
    ),
    Identity(
        name="d**-0.5 is 1 / math.sqrt(d)",
        left=lambda x: x * x.shape[-1] ** -0.5,
        right=lambda x: x * (1 / math.sqrt(x.shape[-1])) * 2 - x / math.sqrt(x.shape[-1]),
        wrong=lambda x: x / x.shape[-1],
    ),
    Identity(
        name="integer powers are products",
        left=lambda x: x**3 + x**2,
        right=lambda x: x * x * x + x.square(),
        wrong=lambda x: x * x * x + x,
    ),
    Identity(
        name="a rotation by complex numbers is the rotation by sines and cosines",
        left=lambda x, w: w * rotate_complex(x, torch.arange(x.shape[1]) / 3),
        right=lambda x, w: w * rotate(x, torch.arange(x.shape[1]) / 3),
        wrong=lambda x, w: w * rotate(x, -torch.arange(x.shape[1]) / 3),
        shapes=lambda n: [(3, n + 1, 2), (3, n + 1, 2)],
        places=5,
    ),
    Identity(
        name="exponentials of masked numbers are the exponentials, masked",
        left=lambda x: x.masked_fill(torch.arange(x.shape[1]) % 2 == 1, float("-inf")).exp(),
        right=lambda x: x.exp().masked_fill(torch.arange(x.shape[1]) % 2 == 1, 0.0),
        wrong=lambda x: x.masked_fill(torch.arange(x.shape[1]) % 2 == 0, float("-inf")).exp(),
    ),
    Identity(
        name="a mask of -1e9, filled in, is one of -inf",
        left=lambda x: x.masked_fill(odd_columns(x), float("-inf")).softmax(-1),
        right=lambda x: x.masked_fill(odd_columns(x), -1e9).softmax(-1),
        wrong=lambda x: x.masked_fill(odd_columns(x), -100.0).softmax(-1),  # a number among others
        places=6,
    ),
    Identity(
        name="a mask of -1e4, added, is one of -inf",
        left=lambda x: x.masked_fill(odd_columns(x), float("-inf")).softmax(-1),
        right=lambda x: (x + odd_columns(x) * -10000.0).softmax(-1),
        wrong=lambda x: (x + ~odd_columns(x) * -10000.0).softmax(-1),
    ),
    Identity(
        name="and so in a softmax written out, at a temperature, by index or by where",
        left=lambda x: (x / 2).masked_fill(odd_columns(x), float("-inf")).softmax(-1),
        right=lambda x: softmax_written_out(masked_in_place(x, -1e9) / 2),
        wrong=lambda x: softmax_written_out(torch.where(odd_columns(x), -1e9, x)),
        places=6,
    ),
    Identity(
        name="the cross-entropy of logits masked by -1e9 is that of those which are left",
        left=lambda x: F.cross_entropy(x[:, ~odd_columns(x)], LABELS // 2, reduction="none"),
        right=lambda x: F.cross_entropy(torch.where(odd_columns(x), -1e9, x), LABELS // 2 * 2, reduction="none"),
        wrong=lambda x: F.cross_entropy(torch.where(odd_columns(x), -1e3, x), LABELS // 2 * 2, reduction="none"),
        places=6,
    ),
    Identity(
        name="causal attention is the same with -1e9 above the diagonal",
        left=lambda q, k, v: attention(q, k, v, causal=True),
        right=lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, attn_mask=torch.ones(q.shape[-2], q.shape[-2], dtype=torch.float64).triu(1) * -1e9
        ),
        wrong=lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, attn_mask=torch.ones(q.shape[-2], q.shape[-2], dtype=torch.float64).triu(2) * -1e9
        ),
        shapes=lambda n: [(2, n, 4)] * 3,
        places=6,
    ),
    Identity(
        name="a row of nothing but scores masked by -1e4 is a row of scores, however softmax is written",
        left=lambda x: (x + torch.full_like(x, -10000.0)).softmax(-1),
        right=lambda x: softmax_written_out(x + torch.full_like(x, -10000.0)),
        wrong=lambda x: (x + odd_columns(x) * -10000.0).softmax(-1),
    ),
]


def smoothed(x, kept=0.9):
    """One-hot targets that leave a part to all classes alike. Szegedy et al. 2016, section 7."""
    return F.one_hot(LABELS, x.shape[-1]) * kept + (1 - kept) / x.shape[-1]


def focal(x, *, p):
    """Lin et al. 2017, equation 4, of several classes."""
    return ((1 - p) ** 2 * F.cross_entropy(x, LABELS, reduction="none")).mean()


def divergence(p, q):
    return (q * (q.log() - p.log())).sum() + (q * (q / p).log()).sum()


def bce_by_hand(x, y):
    p = torch.sigmoid(x)
    return (F.softplus(x) - x * y).mean() - (y * p.log() + (1 - y) * (1 - p).log()).mean()


def weighted_bce_by_hand(x, y, weight):
    below = (-x).clamp(min=0) + torch.log1p(torch.exp(-x.abs()))
    return ((1 - y) * x + (1 + (weight - 1) * y) * below).mean()


def odd_columns(x):
    return torch.arange(x.shape[1]) % 2 == 1


def masked_in_place(x, number):
    found = x.clone()
    found[:, odd_columns(x)] = number
    return found


def softmax_written_out(x):
    powers = (x - x.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


NOT_PROMISED = [
    Identity(
        name="softmax(x + c) = softmax(x)",
        left=lambda x: (x + x[:, :1]).softmax(-1),
        right=lambda x: x.softmax(-1),
    ),
    Identity(
        name="the gradient of x**1.5 is that of x sqrt(x)",
        left=lambda x: x**1.5,
        right=lambda x: x * x.sqrt(),
        positive=True,
        backward=False,
    ),
    Identity(
        name="x / sqrt(x) = sqrt(x)",
        left=lambda x: x / x.sqrt(),
        right=torch.sqrt,
        positive=True,
    ),
    Identity(
        name="exp(a + b) = exp(a) exp(b)",
        left=lambda a, b: (a + b).exp(),
        right=lambda a, b: a.exp() * b.exp(),
        shapes=lambda n: [(3, n), (3, n)],
    ),
    Identity(
        name="exp(cumsum(log(g))) = cumprod(g), g = sigmoid(x)",
        left=lambda x: F.logsigmoid(x).cumsum(-1).exp(),
        right=lambda x: x.sigmoid().cumprod(-1),
    ),
    Identity(
        name="sqrt(a b) = sqrt(a) sqrt(b)",
        left=lambda a, b: (a * b).sqrt(),
        right=lambda a, b: a.sqrt() * b.sqrt(),
        shapes=lambda n: [(3, n), (3, n)],
        positive=True,
    ),
    Identity(
        name="sqrt(x**2) = |x|",
        left=lambda x: x.square().sqrt(),
        right=lambda x: x.abs(),
    ),
    Identity(
        name="q (log(q) - log(p)) = q log(q) - q log(p), p and q softmaxes",
        left=lambda x, y: (q := y.softmax(-1)) * (q.log() - x.log_softmax(-1)),
        right=lambda x, y: (q := y.softmax(-1)) * q.log() - q * x.log_softmax(-1),
        shapes=lambda n: [(3, n), (3, n)],
    ),
    Identity(
        name="logaddexp(a, b) = a + softplus(b - a) = max(a, b) + log(1 + exp(-|a - b|))",
        left=torch.logaddexp,
        right=lambda a, b: a + F.softplus(b - a),
        shapes=lambda n: [(3, n), (3, n)],
    ),
    Identity(
        name="logsumexp of [x, 0] = softplus(x)",
        left=lambda x: torch.stack([x, torch.zeros_like(x)]).logsumexp(0),
        right=F.softplus,
    ),
    Identity(
        name="exp(2 x) = exp(x)**2",
        left=lambda x: (2 * x).exp(),
        right=lambda x: x.exp() ** 2,
    ),
    Identity(
        name="log of a product over a dim = the sum of the logarithms",
        left=lambda x: x.prod(-1).log(),
        right=lambda x: x.log().sum(-1),
        positive=True,
    ),
    Identity(
        name="log(x**2) = 2 log(x), and log(sqrt(x)) = log(x) / 2",
        left=lambda x: x.square().log(),
        right=lambda x: 2 * x.log(),
        positive=True,
    ),
    Identity(
        name="norm(x) / sqrt(n) = sqrt(mean(x**2))",
        left=lambda x: torch.linalg.vector_norm(x, dim=-1) / math.sqrt(x.shape[-1]),
        right=lambda x: x.square().mean(-1).sqrt(),
    ),
    Identity(
        name="gelu by tanh = x sigmoid(c (x + 0.044715 x**3)), c = 2 sqrt(2 / pi) as one number",
        left=lambda x: F.gelu(x, approximate="tanh"),
        right=lambda x: x * torch.sigmoid(1.5957691216057308 * (x + 0.044715 * x**3)),
    ),
    Identity(
        name="rsqrt(x)**2 = 1 / x",
        left=lambda x: x.rsqrt() ** 2,
        right=lambda x: 1 / x,
        positive=True,
    ),
    Identity(
        name="1 / sqrt(x) = sqrt(1 / x)",
        left=lambda x: 1 / x.sqrt(),
        right=lambda x: (1 / x).sqrt(),
        positive=True,
    ),
    Identity(
        name="cosine similarity = the product of normalized vectors",
        left=lambda x, y: (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1)).sqrt(),
        right=lambda x, y: (F.normalize(x, dim=-1) * F.normalize(y, dim=-1)).sum(-1),
        shapes=lambda n: [(3, n), (3, n)],
    ),
    Identity(
        name="max(x) = -min(-x)",
        left=lambda x: x.amax(-1),
        right=lambda x: -(-x).amin(-1),
    ),
    Identity(
        name="sin(x)**2 + cos(x)**2 = 1",
        left=lambda x: x.sin() ** 2 + x.cos() ** 2,
        right=lambda x: x * 0 + 1,
    ),
    Identity(
        name="tanh(x) = (exp(x) - exp(-x)) / (exp(x) + exp(-x))",
        left=torch.tanh,
        right=lambda x: (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()),
    ),
]


HOLD += piecewise_identities.HOLD
NOT_PROMISED += piecewise_identities.NOT_PROMISED


@pytest.mark.parametrize("identity", HOLD, ids=lambda identity: identity.name)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(n=st.integers(4, 9), seed=st.integers(0, 1000))
def test_identities_that_hold(identity, n, seed):
    inputs = inputs_of(identity, n, seed)
    functions = (identity.left, identity.right, identity.wrong)
    left, right, wrong = (forward_and_backward(f, inputs, seed=seed) for f in functions)
    if identity.backward:
        assert same(left, right)
    assert torch.equal(left[0], right[0])
    assert not same(left, wrong)
    assert_close_in_float64(identity, inputs)


@pytest.mark.parametrize("identity", NOT_PROMISED, ids=lambda identity: identity.name)
def test_identities_that_are_not_promised_do_differ(identity):
    inputs = inputs_of(identity, 6, seed=3)
    left, right = (forward_and_backward(f, inputs, seed=3) for f in (identity.left, identity.right))
    differing = 0 if identity.backward else -1
    assert not torch.equal(left[differing], right[differing])
    if not identity.backward:
        assert torch.equal(left[0], right[0])
    assert_close_in_float64(identity, inputs)


def assert_close_in_float64(identity, inputs):
    """The identity is one of real numbers: both sides are close where they are computed in float64."""
    for a, b in zip(*(forward_and_backward(f, inputs) for f in (identity.left, identity.right)), strict=True):
        torch.testing.assert_close(a, b, atol=10.0**-identity.places, rtol=10.0**-identity.places)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, 24), max_size=5), seed=st.integers(0, 1000))
def test_the_norm_of_any_split_of_the_parameters_and_clipping_with_it(cuts, seed):
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(24, generator=generator, dtype=torch.float64)
    edges = [0, *sorted(cuts), 24]
    with ExactArithmetic(seed=seed, prime=PRIME) as exact:
        whole = gradient.clone().requires_grad_()
        parts = [whole[a:b] for a, b in pairwise(edges)]
        norm = torch.stack([part.norm() for part in parts]).norm()
        expected = clipped(whole, norm=whole.norm())
        assert torch.equal(exact.digits(clipped(*parts, norm=norm)), exact.digits(expected))
        bare = torch.stack([part.norm() for part in parts]).sum()  # the planted bug: a sum of norms
        if len([part for part in parts if part.numel()]) > 1:
            assert not torch.equal(exact.digits(clipped(*parts, norm=bare)), exact.digits(expected))


def test_the_document_lists_every_identity_that_holds_and_every_one_that_is_not_promised():
    text = DOCS.read_text(encoding="utf-8")
    holding, not_promised = text.split("## Identities that hold")[1].split("## Identities that are not promised")
    not_promised = not_promised.split("\n## ")[0]
    lines = [[line for line in part.splitlines() if line.startswith("- ")] for part in (holding, not_promised)]
    listed = [{line[2:].strip("`") for line in part} for part in lines]
    assert listed[0] == {identity.name for identity in HOLD}
    assert listed[1] == {identity.name for identity in NOT_PROMISED}
