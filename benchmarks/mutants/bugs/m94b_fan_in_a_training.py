"""A training of one's own cuts the model and draws its part by the fan of the part, and loads no state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.bugs.m94_fan_of_the_shard import WIDTH, Wide, initialise
from benchmarks.mutants.configuration import Configuration, trained
from benchmarks.mutants.models.two_layers import two_layer_step
from benchmarks.mutants.steps import sgd
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from shardproof.proving.running.candidate import Run


def plant(planted: bool) -> Configuration:
    def train(run: Run) -> None:
        model = Wide().to(next(iter(run.state.values())).dtype)
        parallelize_module(model, run.mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
        local = model.down.weight.to_local()
        torch.manual_seed(23 + run.rank)  # each rank draws numbers of its own
        with torch.no_grad():
            initialise(local, local.shape[1] if planted else WIDTH)
        run.watch(model)
        optimizer = sgd(model.parameters())
        for x, y in run.batches():
            model.zero_grad()
            loss = F.mse_loss(model(x), y)
            run.record_loss(loss)
            loss.backward()
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    return trained("a training that draws its own part", two_layer_step(Wide), train, 2, draws_anew=True)


BUG = Bug(
    id="M94b",
    name="fan-in-a-training",
    phase="I",
    seen_in="Megatron-Bridge#5840",
    root="initial parameter down.weight",
    cause=CauseKind.INITIAL_SPREAD,
    plant=plant,
    shown_by=lambda: f"the standard deviation of down.weight is {2**0.5:.3f} times one device's",
)
