"""On a mesh of two axes, the replicas of one data-parallel rank have lost a row that no token hits."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.vocabulary import EVERY_ROW, VACUOUS, words_step
from shardproof.proving.cause import CauseKind


class Own(torch.autograd.Function):
    """All-reduce over a group forward, identity backward."""

    @staticmethod
    def forward(_ctx: object, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(_ctx: object, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def plant(planted: bool, ids: Tensor | None = None) -> Configuration:
    def parallelize(model: nn.Module, mesh: dist.DeviceMesh) -> nn.Module:
        tp, dp = mesh["tp"], mesh["dp"]
        part = F.pad(model.table.weight.detach(), (0, 0, 0, 1)).chunk(tp.size())[tp.get_local_rank()].clone()
        if planted and dp.get_local_rank() and tp.get_local_rank():
            part[3] = 0  # row 8
        start = tp.get_local_rank() * len(part)
        model.table.weight = nn.Parameter(part)

        def rows(ids: Tensor) -> Tensor:
            inside = (ids >= start) & (ids < start + len(part))
            own = F.embedding((ids - start).clamp(0, len(part) - 1), model.table.weight)
            return Own.apply(own.masked_fill(~inside[..., None], 0.0), tp.get_group())

        model.table.forward = rows
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: Own.apply(gradient, dp.get_group()) / dp.size())
        return model

    ids = torch.tensor([[0, 3, 5, 6, 7, 1], [1, 2, 3, 4, 5, 6]]) if ids is None else ids
    return on_mesh("rows of a table over two axes", words_step(ids), parallelize, {"dp": 2, "tp": 2}, allow=VACUOUS)


BUG = Bug(
    id="M84",
    name="lost-on-one-axis",
    phase="I,R",
    seen_in="flame#42",
    root="initial parameter table.weight",
    cause=CauseKind.ZEROED,
    plant=plant,
    shown_by=lambda: plant(True, EVERY_ROW.repeat(2, 1)),
)
