"""DDP averages the ranks' means over their tokens, of which the ranks have unequal numbers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.configuration import Configuration, trained
from benchmarks.mutants.models.training import load_unwatched
from benchmarks.mutants.models.two_layers import TwoLayers, draw
from benchmarks.mutants.steps import sgd
from shardproof.proving.cause import CauseKind
from shardproof.proving.step import Step

LABELS = torch.tensor([0, 3, -100, -100, -100, 1, 2, 2])


def plant(planted: bool) -> Configuration:
    def train(run: Any) -> None:
        model = nn.parallel.DistributedDataParallel(load_unwatched(TwoLayers(), run))
        run.watch(model.module)
        optimizer = sgd(model.parameters())
        for batch in run.batches():
            optimizer.zero_grad()
            inputs, labels = (x.chunk(run.size)[run.rank] for x in batch)
            total = F.cross_entropy(model(inputs), labels, reduction="sum")
            valid = (labels != -100).sum()
            # DDP divides by the number of ranks: each rank's share of the whole mean is multiplied by it.
            loss = total / valid if planted else total * run.size / all_reduced(valid)
            run.record_loss(all_reduced(loss) / run.size)
            loss.backward()
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels)

    step = Step(model=TwoLayers, batch=(draw(8, 6), LABELS), loss=loss, optimizer=sgd, steps=2)
    return trained("DDP over unequal numbers of tokens", step, train, 2)


BUG = Bug(
    id="M97",
    name="ddp-unequal-tokens",
    phase="B",
    seen_in="transformers#34191",
    root="loss loss",
    cause=CauseKind.OWN_COUNT,
    plant=plant,
)
