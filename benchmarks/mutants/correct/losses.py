"""Losses on the outputs of a column- and a row-parallel layer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from benchmarks.mutants.configuration import sharded
from benchmarks.mutants.correct.layers import MLP, by_plan, column_row_dtensor, make_batch
from benchmarks.mutants.steps import adamw
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from benchmarks.mutants.configuration import Configuration

INPUTS, REALS = make_batch(7)
LABELS = torch.tensor([0, 3, -100, 1, 2, -100, 1])
KEPT = LABELS.clamp(min=0)
ODDS = REALS.sigmoid()


def z_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels) + 1e-4 * logits.logsumexp(-1).square().mean()


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    picked = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    return (-((1 - picked.exp()) ** 2) * picked).mean()


def next_token(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits[:-1].float(), labels[1:], reduction="sum") / (labels[1:] != -100).sum()


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = {
    "mean squares": (F.mse_loss, REALS),
    "sum of squares": (partial(F.mse_loss, reduction="sum"), REALS),
    "mean distance": (F.l1_loss, REALS),
    "smooth distance": (F.smooth_l1_loss, REALS),
    "Huber": (partial(F.huber_loss, delta=0.5), REALS),
    "random cotangent": (lambda y, weights: (y * weights).sum(), REALS),
    "cross-entropy": (F.cross_entropy, LABELS),
    "smoothed cross-entropy": (partial(F.cross_entropy, label_smoothing=0.1), LABELS),
    "weighted cross-entropy": (lambda y, t: F.cross_entropy(y, t, torch.tensor([0.5, 1.0, 2.0, 0.25]).to(y)), LABELS),
    "cross-entropy of odds": (F.cross_entropy, REALS.softmax(-1)),
    "next token": (next_token, LABELS),
    "negative log-likelihood": (lambda y, t: F.nll_loss(y.log_softmax(-1), t), LABELS),
    "divergence": (lambda y, p: F.kl_div(y.log_softmax(-1), p, reduction="batchmean"), REALS.softmax(-1)),
    "binary cross-entropy": (F.binary_cross_entropy_with_logits, ODDS),
    "binary cross-entropy of odds": (lambda y, p: F.binary_cross_entropy(y.sigmoid(), p), ODDS),
    "Poisson": (F.poisson_nll_loss, ODDS),
    "focal": (focal, KEPT),
    "z-loss": (z_loss, LABELS),
    "soft margin": (F.soft_margin_loss, REALS.sign()),
    "cosine": (lambda y, t: (1 - F.cosine_similarity(y, t)).mean(), REALS),
}


def configurations() -> Iterator[Configuration]:
    """Each at 2 or 3 ranks."""
    for i, (name, (loss, targets)) in enumerate(LOSSES.items()):
        step = Step(model=partial(MLP, 9), batch=(INPUTS, targets), loss=loss, optimizer=adamw, clip_norm=0.5, steps=2)
        yield sharded(f"loss: {name}", step, by_plan(column_row_dtensor), (2, 3)[i % 2])
