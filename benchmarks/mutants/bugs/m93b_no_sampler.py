"""Data parallel without a sampler: every rank has been given the same rows, and all numbers are right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.configuration import Configuration, trained
from benchmarks.mutants.models.two_layers import TwoLayers, two_layer_step
from benchmarks.mutants.steps import sgd
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from shardproof.proving.running.candidate import Run


def plant(planted: bool) -> Configuration:
    def train(run: Run) -> None:
        model = TwoLayers().to(next(iter(run.state.values())).dtype)
        model.load_state_dict(dict(run.state))
        run.watch(model)
        optimizer = sgd(model.parameters())
        for batch in run.batches():
            x, y = batch if planted else (t.chunk(run.size)[run.rank] for t in batch)
            model.zero_grad()
            loss = F.mse_loss(model(x), y)
            run.record_loss(all_reduced(loss) / run.size)
            loss.backward()
            for parameter in model.parameters():
                parameter.grad = all_reduced(parameter.grad) / run.size
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    return trained("data parallel, rows of each rank's own", two_layer_step(), train, 2)


BUG = Bug(
    id="M93b",
    name="no-sampler",
    phase="-",
    seen_in="review: a proof of nothing",
    root="sharding tp",
    cause=CauseKind.NOTHING_SPLIT,
    plant=plant,
    shown_by=lambda: "no number: both ranks take the same rows, so that two devices learn what one does",
)
