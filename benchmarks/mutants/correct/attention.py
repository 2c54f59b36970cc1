"""Attention whose heads the ranks share: masks, kernels, grouped queries, positions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel

from benchmarks.mutants.block import rope, rotate
from benchmarks.mutants.configuration import sharded
from benchmarks.mutants.correct.layers import by_plan
from benchmarks.mutants.steps import adamw
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.mutants.configuration import Configuration

HIDDEN, HEADS, WIDTH, SEQUENCE = 6, 4, 4, 5


class Attention(nn.Module):
    """Four query heads of width 4; keys and values of as many heads, or fewer; `attend` takes [B, heads, S, 4]."""

    def __init__(
        self,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        *,
        kv_heads: int = HEADS,
        turned: bool = False,
        normed: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.attend, self.turned, self.normed = attend, turned, normed
        self.wq = nn.Linear(HIDDEN, HEADS * WIDTH, bias=bias)
        self.wk, self.wv = (nn.Linear(HIDDEN, kv_heads * WIDTH, bias=bias) for _ in range(2))
        self.wo = nn.Linear(HEADS * WIDTH, HIDDEN, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        # -1: as many heads as this rank has
        q, k, v = (w(x).unflatten(-1, (-1, WIDTH)).transpose(1, 2) for w in (self.wq, self.wk, self.wv))
        if self.normed:
            q, k = F.rms_norm(q, (WIDTH,)), F.rms_norm(k, (WIDTH,))
        if self.turned:
            cos, sin = (table[:, 0, 0].to(x) for table in rope(torch.arange(x.shape[1]), WIDTH))
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return self.wo(self.attend(q, k, v).transpose(1, 2).flatten(2))


def earlier(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def window(length: int) -> Tensor:
    return earlier(length) & ~earlier(length).tril(-3)


def by_hand(q: Tensor, k: Tensor, v: Tensor, *, hidden: float = float("-inf"), scale: float = WIDTH**-0.5) -> Tensor:
    scores = (q @ k.mT * scale).masked_fill(~earlier(q.shape[2]), hidden)
    return scores.softmax(-1) @ v


def added(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The mask is added, as Hugging Face does it."""
    mask = torch.zeros(q.shape[2], q.shape[2], dtype=q.dtype).masked_fill(
        ~earlier(q.shape[2]), torch.finfo(q.dtype).min
    )
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def upcast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax in float32 whatever the inputs are."""
    scores = (q @ k.mT / WIDTH**0.5).float().masked_fill(~earlier(q.shape[2]), torch.finfo(torch.float32).min)
    return scores.softmax(-1, dtype=torch.float32).to(q.dtype) @ v


def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Without softmax: the state is a sum of outer products."""
    state = torch.einsum("bhsd,bhse->bhsde", F.silu(k), v).cumsum(2)
    return torch.einsum("bhsd,bhsde->bhse", F.silu(q), state)


def capped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Gemma 2's scores, capped by tanh."""
    scores = 5.0 * torch.tanh(q @ k.mT / 5.0)
    return scores.masked_fill(~earlier(q.shape[2]), float("-inf")).softmax(-1) @ v


SDPA = F.scaled_dot_product_attention
MODELS: dict[str, Callable[[], nn.Module]] = {
    "full": partial(Attention, SDPA),
    "causal": partial(Attention, partial(SDPA, is_causal=True)),
    # Without rope a bias of the keys has no gradient at all, which the prover calls VACUOUS.
    "rope, biases": partial(Attention, partial(SDPA, is_causal=True), turned=True, bias=True),
    "a scale of its own": partial(Attention, partial(SDPA, is_causal=True, scale=0.125)),
    "a boolean mask": partial(Attention, partial(SDPA, attn_mask=window(SEQUENCE))),
    "an added mask": partial(Attention, added),
    "grouped queries": partial(Attention, partial(SDPA, is_causal=True, enable_gqa=True), kv_heads=2),
    "rope": partial(Attention, partial(SDPA, is_causal=True), turned=True),
    "rope, normed heads": partial(Attention, partial(SDPA, is_causal=True), turned=True, normed=True),
    "by hand, -inf": partial(Attention, by_hand),
    "by hand, finfo.min": partial(Attention, partial(by_hand, hidden=torch.finfo(torch.float32).min)),
    "softmax in float32": partial(Attention, upcast),
    "capped scores": partial(Attention, capped),
    "linear": partial(Attention, linear),
}


def configurations() -> Iterator[Configuration]:
    """Each at 2 ranks, and at 4 where there are as many KV heads."""
    generator = torch.Generator().manual_seed(0)
    batch = tuple(torch.randn(2, SEQUENCE, HIDDEN, generator=generator) for _ in range(2))
    plan = {"wq": ColwiseParallel, "wk": ColwiseParallel, "wv": ColwiseParallel, "wo": RowwiseParallel}
    parallelize = by_plan(lambda: {name: style() for name, style in plan.items()})
    for name, model in MODELS.items():
        step = Step(model=model, batch=batch, loss=F.mse_loss, optimizer=adamw, clip_norm=1.0, steps=2)
        for devices in (2,) if name == "grouped queries" else (2, 4):
            yield sharded(f"attention: {name}", step, parallelize, devices)
