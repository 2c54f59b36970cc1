"""The gradient norm counts a tied weight twice: once as the embedding, once as the head."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.configuration import Configuration, trained
from benchmarks.mutants.models.training import load
from benchmarks.mutants.steps import sgd
from shardproof.proving.cause import CauseKind
from shardproof.proving.step import Step

MAX_NORM = 0.1


class Tied(nn.Module):
    """A table, a layer, and the table again as the head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.middle, self.head = nn.Embedding(7, 6), nn.Linear(6, 6), nn.Linear(6, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.table(ids))))


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def plant(planted: bool) -> Configuration:
    def train(run: Any) -> None:
        model = load(Tied(), run)
        optimizer = sgd(model.parameters())
        for batch in run.batches():
            optimizer.zero_grad()
            loss = loss_of(model, tuple(x.chunk(run.size)[run.rank] for x in batch))
            run.record_loss(all_reduced(loss) / run.size)
            loss.backward()
            for parameter in model.parameters():
                parameter.grad = all_reduced(parameter.grad) / run.size
            run.record_gradients()
            counted = [*model.parameters(), *([model.head.weight] if planted else [])]
            norm = torch.stack([p.grad.square().sum() for p in counted]).sum().sqrt()
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), MAX_NORM, norm)
            optimizer.step()
            run.record_update(optimizer, norm=norm)

    ids = torch.randperm(28, generator=torch.Generator().manual_seed(0)).remainder(7).view(4, 7)
    step = Step(model=Tied, batch=(ids, ids.roll(1, 1)), forward=loss_of, optimizer=sgd, clip_norm=MAX_NORM, steps=2)
    return trained("clipping with a tied weight", step, train, 2)


BUG = Bug(
    id="M98",
    name="tied-counted-twice",
    phase="U",
    seen_in="Megatron-LM#7228",
    root="gradient norm gradient norm",
    cause=CauseKind.NORM_COUNTS_PARAMETER,
    factor=Fraction(2),
    plant=plant,
)
