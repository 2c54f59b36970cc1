"""The rehearsal in which PyTorch's stages find their shapes is no part of the step; what it leaves behind is seen."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe

from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
from shardproof.proving.running.stage_shapes import is_rehearsed, write_unwritten
from shardproof.proving.step import Step


def test_nothing_is_rehearsed_here():
    assert not is_rehearsed()


def test_unwritten_memory_gets_numbers_and_integers_zeros():
    floats = write_unwritten(torch.full((2, 3), torch.nan).requires_grad_())
    assert floats.requires_grad
    assert floats.is_leaf
    assert torch.equal(floats.detach(), torch.arange(1, 7).view(2, 3) / 6)
    assert write_unwritten(torch.ones(2, dtype=torch.int64)).tolist() == [0, 0]
    assert write_unwritten(torch.empty(0, 3)).shape == (0, 3)


def test_a_shape_without_memory_is_left_as_it_is():
    with FakeTensorMode():
        shape = torch.empty_strided((2, 3), (3, 1))
        assert write_unwritten(shape) is shape
        assert isinstance(shape, FakeTensor)


def make_train(*, examples):
    """A linear layer, then a norm of batches with a linear layer, on two ranks. `examples`: no rehearsal is needed."""

    def train(run):
        def split(model, mesh):
            return nn.Sequential(*(model[:1] if mesh.get_local_rank() == 0 else model[1:]))

        stage = run.model(split)
        rows = torch.zeros(2, 4, dtype=next(stage.parameters()).dtype)
        given = {"input_args": rows, "output_args": rows.clone().requires_grad_()} if examples else {}
        if examples and run.rank:
            given["input_args"] = given["output_args"].clone().detach().requires_grad_()
        made = PipelineStage(stage, run.rank, 2, torch.device("cpu"), **given)
        schedule = ScheduleGPipe(made, 2, loss_fn=F.mse_loss)
        optimizer = torch.optim.SGD(stage.parameters(), lr=0.1)
        for x, y in run.batches():
            optimizer.zero_grad()
            losses = []
            schedule.step(*(() if run.rank else (x,)), **({"target": y, "losses": losses} if run.rank else {}))
            loss = torch.stack(losses).detach().mean() if losses else torch.zeros((), dtype=x.dtype)
            dist.all_reduce(loss)
            run.record_loss(loss)
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    return train


class TwoMicrobatches(nn.BatchNorm1d):
    """On one device: the statistics of each half of the rows, one after the other."""

    def forward(self, x):
        return (
            torch.cat([super(TwoMicrobatches, self).forward(half) for half in x.chunk(2)])
            if len(x) == 4
            else (super().forward(x))
        )


def make_step(middle):
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(4, 4, generator=generator) for _ in range(2))
    return Step(
        model=lambda: nn.Sequential(nn.Linear(4, 4), middle(4), nn.Linear(4, 4)),
        batch=(x, y),
        loss=F.mse_loss,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        steps=1,
    )


@pytest.mark.parametrize("examples", [False, True])
def test_a_rehearsal_is_not_recorded(examples):
    proof = prove(make_step(nn.LayerNorm), candidate=make_train(examples=examples), mesh={"pp": 2}, trials=1)
    assert proof.ok, proof


@pytest.mark.parametrize("examples", [False, True])
def test_statistics_that_a_rehearsal_has_changed_are_wrong(examples):
    proof = prove(make_step(TwoMicrobatches), candidate=make_train(examples=examples), mesh={"pp": 2}, trials=1)
    wrong = {one.key.name for one in proof.findings if one.key.phase is Phase.BUFFER and one.failed}
    assert wrong == (set() if examples else {"1.running_mean", "1.running_var", "1.num_batches_tracked"})
