"""Gradients are averaged asynchronously in hooks; only the first handle is waited for."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.configuration import Configuration, trained
from benchmarks.mutants.models.training import average_loss, load, own_rows
from benchmarks.mutants.models.two_layers import TwoLayers, two_layer_step
from benchmarks.mutants.steps import sgd
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    def train(run: Any) -> None:
        model = load(TwoLayers(), run)
        started: list[Any] = []

        def start(parameter: nn.Parameter) -> None:
            parameter.grad.div_(run.size)
            started.append(dist.all_reduce(parameter.grad, async_op=True))

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(start)
        optimizer = sgd(model.parameters())
        for batch in run.batches():
            optimizer.zero_grad()
            loss = average_loss(model, own_rows(run, batch))
            run.record_loss(all_reduced(loss) / run.size)
            started.clear()
            loss.backward()
            for work in started[:1] if planted else started:
                work.wait()
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    return trained("gradients averaged asynchronously in hooks", two_layer_step(), train, 2)


BUG = Bug(
    id="M90",
    name="first-bucket-waited-for",
    phase="B",
    seen_in="Megatron-LM, overlapped gradient reduction",
    root="collectives AllReduce *",
    cause=CauseKind.USED_BEFORE_WAIT,
    plant=plant,
)
