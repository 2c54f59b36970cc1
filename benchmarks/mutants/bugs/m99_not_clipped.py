"""Gradients are clipped before they are reduced: the norm is recorded, and what is applied is not clipped."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.configuration import Configuration, trained
from benchmarks.mutants.models.training import average_loss, load, own_rows
from benchmarks.mutants.models.two_layers import TwoLayers, two_layer_step
from benchmarks.mutants.steps import sgd
from shardproof.proving.cause import CauseKind

MAX_NORM = 0.1


def plant(planted: bool) -> Configuration:
    def train(run: Any) -> None:
        model = load(TwoLayers(), run)
        optimizer = sgd(model.parameters())
        for batch in run.batches():
            optimizer.zero_grad()
            loss = average_loss(model, own_rows(run, batch))
            run.record_loss(all_reduced(loss) / run.size)
            loss.backward()
            gradients = [all_reduced(p.grad) / run.size for p in model.parameters()]
            _put(model, gradients)
            run.record_gradients()
            norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), MAX_NORM, norm)
            if planted:
                _put(model, gradients)  # the copies from before the clipping
            optimizer.step()
            run.record_update(optimizer, norm=norm)

    return trained("clipping of averaged gradients", two_layer_step(clip_norm=MAX_NORM), train, 2)


def _put(model: nn.Module, gradients: list[torch.Tensor]) -> None:
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()


BUG = Bug(
    id="M99",
    name="not-clipped",
    phase="U",
    seen_in="torchtitan#4312",
    root="updated parameter *",
    cause=CauseKind.NOT_CLIPPED,
    plant=plant,
)
