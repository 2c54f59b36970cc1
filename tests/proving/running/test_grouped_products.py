"""Grouped products in float64 are those of PyTorch's kernels in float32; experts are proved by them."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from shardproof import Step
from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
from shardproof.proving.running.grouped_products import grouped_products_followed

ENDS = torch.tensor([3, 3, 8], dtype=torch.int32)
SHAPES = {"rows": ((8, 16), (3, 16, 8)), "columns": ((3, 8, 16), (16, 8)), "inner": ((8, 8), (8, 16))}


def run(shapes, dtype):
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes
    )
    with grouped_products_followed():
        y = F.grouped_mm(a, b, offs=ENDS)
    y.square().sum().backward()
    return [x.double() for x in (y.detach(), a.grad, b.grad)]


def test_columns_that_no_group_has_are_nan():
    a, b = torch.ones(3, 8, 16, dtype=torch.float64), torch.ones(16, 9, dtype=torch.float64)
    with grouped_products_followed():
        found = F.grouped_mm(a, b, offs=ENDS)
    assert found.isnan().all(0).tolist() == [column == 8 for column in range(9)]


@pytest.mark.parametrize("name", SHAPES)
def test_they_are_those_of_the_kernels_of_float32(name):
    for wide, narrow in zip(run(SHAPES[name], torch.float64), run(SHAPES[name], torch.float32), strict=True):
        torch.testing.assert_close(wide, narrow, rtol=1e-4, atol=1e-4)
        assert not torch.equal(wide, narrow)


def test_without_it_pytorch_has_none():
    a, b = (torch.zeros(shape, dtype=torch.float64) for shape in SHAPES["rows"])
    with pytest.raises(RuntimeError, match="Double"):
        F.grouped_mm(a, b, offs=ENDS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rows_that_no_group_has_are_nan_forward_and_backward(dtype):
    a = torch.ones(9, 16, dtype=dtype, requires_grad=True)
    b = torch.ones(3, 16, 8, dtype=dtype, requires_grad=True)
    with grouped_products_followed():
        y = F.grouped_mm(a, b, offs=ENDS)
    y[:8].sum().backward()
    for found in (y, a.grad):
        assert found.isnan().all(1).tolist() == [row == 8 for row in range(9)]
    assert not b.grad.isnan().any()


class Experts(nn.Module):
    """A layer, and each of its rows through one of three experts; there may be room for one row more."""

    room, masked = 0, True

    def __init__(self):
        super().__init__()
        self.first, self.weights = nn.Linear(16, 16), nn.Parameter(torch.randn(3, 16, 8))

    def forward(self, batch):
        x, expert = batch
        order = expert.argsort(stable=True)
        ends = torch.bincount(expert, minlength=3).cumsum(0).int()
        inside = (torch.arange(len(x) + self.room) < len(x)).unsqueeze(-1)
        rows = self.first(x)[order]
        rows = torch.cat([rows, rows.new_ones(self.room, 16)])
        y = F.grouped_mm(rows, self.weights, offs=ends)
        y = torch.where(inside, y, 0.0) if self.masked else y * inside
        return (
            y[: len(x)][order.argsort()] + y.sum() - y[: len(x)].sum()
        )  # the last two cancel if nothing is in the room


EXPERTS = torch.tensor([0, 2, 1, 0, 1, 0, 1, 2])  # each rank has rows for every expert


def loss_of_rows(output, target):
    return (output * target).sum() / len(output)


def average(parameter):
    dist.all_reduce(parameter.grad)
    parameter.grad.div_(dist.get_world_size())


def prove_experts(*, room=0, masked=True, **settings):
    def parallelize(model, mesh):
        model.room, model.masked = room, masked
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(average)
        return model

    batch = ((torch.randn(8, 16), EXPERTS), torch.randn(8, 8))
    step = Step(model=Experts, batch=batch, loss=loss_of_rows, steps=1)
    return prove(step, parallelize=parallelize, mesh={"dp": 2}, **settings)


@pytest.mark.parametrize(
    ("room", "spawn"), [(0, False), (1, False), pytest.param(1, True, marks=[pytest.mark.slow, pytest.mark.processes])]
)
def test_experts_are_proved(room, spawn):
    assert prove_experts(room=room, spawn=spawn, trials=1, reload=None).ok


def test_a_row_that_nobody_wrote_is_found_although_it_is_multiplied_by_zero():
    """NaN times 0 is NaN, and what lies in memory that nobody wrote may be NaN."""
    root = prove_experts(room=1, masked=False, trials=1).roots[0]
    assert (root.verdict, root.key.phase) == (Verdict.WRONG, Phase.OUTPUT)
    assert root.cause.kind is CauseKind.ONLY_IN_NATIVE_DTYPE
