"""A whole proof of asynchronous collectives: right with the wait, WRONG at the line of the early use without it."""

import pytest
import torch
import torch.distributed as dist
from tests.proving import steps

from shardproof.proving.cause import CauseKind
from shardproof.proving.prove import prove
from shardproof.report.words import describe_cause


class Reduced(torch.autograd.Function):
    """All-reduce forward, waited for or not; identity backward."""

    @staticmethod
    def forward(_ctx, x, waits):
        x = x.contiguous().clone()
        work = dist.all_reduce(x, async_op=True)
        if waits:
            work.wait()
        return x

    @staticmethod
    def backward(_ctx, grad):
        return grad, None


def row_parallel(waits):
    def shard(model, mesh):
        model = steps.megatron("no all-reduce")(model, mesh)

        def forward(x):
            h = torch.nn.functional.gelu(torch.nn.functional.linear(x, model.up.weight, model.up.bias))
            return Reduced.apply(torch.nn.functional.linear(h, model.down.weight), waits) + model.down.bias

        model.forward = forward
        return model

    return shard


@pytest.mark.parametrize("seed", range(3))
def test_without_the_wait_it_is_wrong_at_that_line_and_nothing_else_is(seed):
    proof = prove(steps.make_step(), parallelize=row_parallel(False), devices=2, trials=2, seed=seed)
    (finding,) = [one for one in proof.findings if not one.verdict.ok]
    assert finding.root
    assert finding.cause.kind is CauseKind.USED_BEFORE_WAIT
    assert finding.cause.early_access.access == "add"
    assert "test_asynchronous.py" in describe_cause(finding.cause)


def test_with_the_wait_it_is_proved():
    assert prove(steps.make_step(), parallelize=row_parallel(True), devices=2, trials=2).ok
