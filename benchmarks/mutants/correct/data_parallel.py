"""Ways of being data parallel: each rank has the whole model and its rows of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from benchmarks.mutants.collectives import all_reduced, gathered, reduce_scattered
from benchmarks.mutants.configuration import trained
from benchmarks.mutants.correct.layers import MLP, make_batch
from benchmarks.mutants.lines import Place, own_range
from benchmarks.mutants.steps import adamw, sgd
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from benchmarks.mutants.configuration import Configuration
    from shardproof.proving.running.candidate import Run

CLIP_NORM = 0.5
Batch = tuple["Tensor", "Tensor"]


def load(run: Run) -> nn.Module:
    """The whole model, watched."""
    model = MLP().to(next(iter(run.state.values())).dtype)
    model.load_state_dict(dict(run.state))
    run.watch(model)
    return model


def own_rows(run: Run, batch: Batch) -> Batch:
    own = own_range(len(batch[0]), Place(rank=run.rank, size=run.size))
    return batch[0][own], batch[1][own]


def share_of(model: nn.Module, rows: Batch, batch: Batch) -> Tensor:
    """This rank's share of the mean over the whole batch."""
    return F.mse_loss(model(rows[0]), rows[1], reduction="sum") / batch[1].numel()


def weighted(run: Run) -> None:
    """Shares that add up to the mean, however many rows each rank has; gradients summed one by one."""
    model = load(run)
    optimizer = adamw(model.parameters())
    for batch in run.batches():
        model.zero_grad()
        share = share_of(model, own_rows(run, batch), batch)
        run.record_loss(all_reduced(share))
        share.backward()
        for parameter in model.parameters():
            parameter.grad = all_reduced(parameter.grad)
        run.record_gradients()
        optimizer.step()
        run.record_update(optimizer)


def averaged(run: Run) -> None:
    """Means over equally many rows, gradients averaged, then clipped by PyTorch's own function."""
    model = load(run)
    optimizer = adamw(model.parameters())
    for batch in run.batches():
        model.zero_grad()
        inputs, targets = own_rows(run, batch)
        loss = F.mse_loss(model(inputs), targets)
        run.record_loss(all_reduced(loss) / run.size)
        loss.backward()
        for parameter in model.parameters():
            parameter.grad = all_reduced(parameter.grad, dist.ReduceOp.AVG)
        run.record_gradients()
        norm = clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        run.record_update(optimizer, norm=norm)


def hooked(run: Run) -> None:
    """Each gradient is reduced as soon as the backward has it."""
    model = load(run)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: dist.all_reduce(p.grad))
    optimizer = adamw(model.parameters())
    for batch in run.batches():
        model.zero_grad()
        share = share_of(model, own_rows(run, batch), batch)
        run.record_loss(all_reduced(share))
        share.backward()
        run.record_gradients()
        optimizer.step()
        run.record_update(optimizer)


def accumulated(run: Run) -> None:
    """Row after row, gradients summed over the rows, then over the ranks in one bucket."""
    model = load(run)
    optimizer = adamw(model.parameters())
    for batch in run.batches():
        model.zero_grad()
        inputs, targets = own_rows(run, batch)
        shares = []
        for row in range(len(inputs)):
            share = share_of(model, (inputs[row : row + 1], targets[row : row + 1]), batch)
            share.backward()
            shares.append(share.detach())
        run.record_loss(all_reduced(torch.stack(shares).sum()))
        bucket = all_reduced(parameters_to_vector(p.grad for p in model.parameters()))
        for parameter, part in zip(
            model.parameters(), bucket.split([p.numel() for p in model.parameters()]), strict=True
        ):
            parameter.grad.copy_(part.view_as(parameter))
        run.record_gradients()
        optimizer.step()
        run.record_update(optimizer)


def by_parts(run: Run) -> None:
    """Each rank updates its part of one flat vector (ZeRO, stage 1); the parts are gathered."""
    model = load(run)
    whole = parameters_to_vector(model.parameters()).detach()
    each = -(-len(whole) // run.size)
    lack = each * run.size - len(whole)
    mine = slice(run.rank * each, (run.rank + 1) * each)
    part = nn.Parameter(F.pad(whole, (0, lack))[mine].clone())
    optimizer = sgd([part])
    for batch in run.batches():
        model.zero_grad()
        share = share_of(model, own_rows(run, batch), batch)
        run.record_loss(all_reduced(share))
        share.backward()
        gradients = parameters_to_vector(p.grad for p in model.parameters())
        part.grad = reduce_scattered(F.pad(gradients, (0, lack)))
        for parameter in model.parameters():
            parameter.grad = all_reduced(parameter.grad)
        run.record_gradients()
        optimizer.step()
        vector_to_parameters(gathered(part)[: len(whole)], model.parameters())
        run.record_update(None)


def by_parameters(run: Run) -> None:
    """Each rank's optimizer has every Nth parameter, which the others get from it."""
    model = load(run)
    parameters = list(model.parameters())
    optimizer = adamw(parameters[run.rank :: run.size])
    for batch in run.batches():
        model.zero_grad()
        share = share_of(model, own_rows(run, batch), batch)
        run.record_loss(all_reduced(share))
        share.backward()
        for parameter in parameters:
            parameter.grad = all_reduced(parameter.grad)
        run.record_gradients()
        optimizer.step()
        for number, parameter in enumerate(parameters):
            dist.broadcast(parameter.data, number % run.size)
        run.record_update(optimizer)


KINDS: dict[str, tuple[Callable[[Run], None], dict[str, Any]]] = {
    "weighted shares": (weighted, {}),
    "averaged, clipped": (averaged, {"batch": make_batch(12), "clip_norm": CLIP_NORM}),
    "reduced in hooks": (hooked, {}),
    "accumulated, in one bucket": (accumulated, {}),
    "updated by parts": (by_parts, {"optimizer": sgd}),
    "updated by parameters": (by_parameters, {}),
}


def configurations() -> Iterator[Configuration]:
    """Each at 2 and 3 ranks."""
    for name, (candidate, changes) in KINDS.items():
        settings = {"model": MLP, "batch": make_batch(), "loss": F.mse_loss, "optimizer": adamw, "steps": 2}
        step = Step(**(settings | changes))
        for devices in (2, 3):
            yield trained(f"data parallel, {name}", step, candidate, devices)
