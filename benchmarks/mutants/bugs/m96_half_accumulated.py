"""Gradients of several microbatches are accumulated, and only the last one's is averaged over the ranks."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.configuration import Configuration, trained
from benchmarks.mutants.models.training import average_loss, load_unwatched, own_rows
from benchmarks.mutants.models.two_layers import TwoLayers, draw, two_layer_step
from benchmarks.mutants.steps import sgd
from shardproof.proving.cause import CauseKind

PARTS = 2


def plant(planted: bool) -> Configuration:
    def train(run: Any) -> None:
        model = nn.parallel.DistributedDataParallel(load_unwatched(TwoLayers(), run))
        run.watch(model.module)
        optimizer = sgd(model.parameters())
        for batch in run.batches():
            optimizer.zero_grad()
            total = torch.zeros(())
            parts = list(zip(*(x.chunk(PARTS) for x in own_rows(run, batch)), strict=True))
            kept = None
            for number, part in enumerate(parts, 1):
                with nullcontext() if number == len(parts) else model.no_sync():
                    loss = average_loss(model, part) / PARTS
                    if planted and number == len(parts):  # stashed, so that the reducer does not see them
                        kept = [p.grad.clone() for p in model.parameters()]
                        model.zero_grad()
                    loss.backward()
                total = total + loss.detach()
            if kept is not None:
                for parameter, gradient in zip(model.parameters(), kept, strict=True):
                    parameter.grad += gradient
            run.record_loss(all_reduced(total) / run.size)
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    step = two_layer_step(batch=(draw(8, 6), draw(8, 4, seed=1)))
    return trained("DDP over accumulated microbatches", step, train, 2)


BUG = Bug(
    id="M96",
    name="last-microbatch-only",
    phase="B,R",
    seen_in="open-instruct#1498",
    root="gradient *",
    cause=CauseKind.MISSING_AVERAGE,
    plant=plant,
)
