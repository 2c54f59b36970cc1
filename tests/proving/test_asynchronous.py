"""A whole proof of asynchronous collectives: right with the wait, WRONG at the line of the early use without it."""

import pytest
import torch
import torch.distributed as dist
from tests.proving import steps
from torch.distributed.fsdp import fully_shard

from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
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


def average_gradients(waits):
    """Data parallelism by hooks: the early use is in the backward."""

    def shard(model, mesh):
        def average(gradient):
            total = gradient.clone()
            work = dist.all_reduce(total, async_op=True, group=mesh.get_group())
            if waits:
                work.wait()
            mean = total / mesh.size()
            work.wait()
            return mean

        for parameter in model.parameters():
            parameter.register_hook(average)
        return model

    return shard


@pytest.mark.parametrize("spawn", [False, pytest.param(True, marks=pytest.mark.processes)])
@pytest.mark.parametrize("numeric", [False, True])
@pytest.mark.parametrize(
    ("sharding", "mesh", "access"), [(row_parallel, {"tp": 2}, "add"), (average_gradients, {"dp": 2}, "div")]
)
def test_early_uses_are_found_in_exact_arithmetic_and_in_numbers_on_threads_and_processes(
    sharding, mesh, access, numeric, spawn
):
    step = steps.make_step_of_four_rows(steps=1)
    for waits in (True, False):
        proof = prove(step, parallelize=sharding(waits), mesh=mesh, spawn=spawn, numeric=numeric, trials=1)
        assert proof.ok == waits
        early = [one for one in proof.findings if one.key.phase is Phase.COLLECTIVES]
        assert len(early) == (not waits)
        for one in early:
            assert (one.verdict, one.cause.kind, one.ranks) == (Verdict.WRONG, CauseKind.USED_BEFORE_WAIT, (0, 1))
            assert one.cause.early_access.access == access
            assert "test_asynchronous.py" in one.cause.early_access.call_line
            assert "test_asynchronous.py" in one.cause.early_access.access_line


def gathered_ahead(model, mesh):
    """FSDP2's all-gathers of all layers under way at once; what each gives is a part of the memory of its result."""
    layers = [fully_shard(layer, mesh=mesh) for layer in (model.up, model.down)]
    fully_shard(model, mesh=mesh)
    forward = model.forward

    def gather_first(x):
        for layer in layers:
            layer.unshard(async_op=True)
        return forward(x)

    model.forward = gather_first
    return model


@pytest.mark.parametrize("spawn", [False, pytest.param(True, marks=pytest.mark.processes)])
def test_what_is_gathered_may_be_a_part_of_the_memory_of_the_result(spawn):
    step = steps.make_step_of_four_rows(steps=1)
    assert prove(step, parallelize=gathered_ahead, mesh={"dp": 2}, spawn=spawn, trials=1).ok
