"""The sequence of collectives: the same in exact arithmetic and in the user's dtype, or a finding that says where."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.proving import steps

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.collectives import find_divergences
from shardproof.proving.prove import prove
from shardproof.proving.records import CollectiveCall, Phase, Precision, Records
from shardproof.proving.running.batch import digest_batch
from shardproof.proving.running.both_sides import run_in_processes, run_in_threads
from shardproof.proving.running.models import build_model
from shardproof.proving.running.request import RunRequest, Start
from shardproof.proving.running.target import ProofTarget
from shardproof.report.text import render_text
from shardproof.report.words import describe_collective
from shardproof.worlds.spawned import SpawnedWorld
from shardproof.worlds.threaded import ThreadedWorld


def run_ranks(target, *, spawn=False):
    """Each rank's sequences, in exact arithmetic and in the model's own dtype."""
    state = {name: tensor.clone() for name, tensor in build_model(target.step, 0).double().state_dict().items()}
    batch = digest_batch(target.step)
    request = RunRequest(mesh={"tp": 2}, seeds=(0,), native=(Precision.OWN,), batch=batch, traced=True)
    start = Start(state=state)
    if spawn:
        sides = run_in_processes(SpawnedWorld(size=2), target, request, start, start)
    else:
        sides = run_in_threads(ThreadedWorld(size=2), target, request, start, start)
    return [(side.trials[0].collectives, side.native[Precision.OWN].collectives) for side in sides]


def dtensor():
    return ProofTarget(step=steps.make_step(), parallelize=steps.parallelize)


# What is recorded -----------------------------------------------------------------------------------------------------


def test_a_dtensors_collective_is_recorded_with_its_module_group_shape_and_placement():
    for exact, native in run_ranks(dtensor()):
        assert exact == native
        assert [describe_collective(one) for one in native] == [
            "AllReduce SUM of [5, 4] over ranks 0, 1, P(sum) to R, in down"
        ]


@pytest.mark.processes
@pytest.mark.slow
def test_processes_record_the_same_under_their_own_names():
    for exact, native in run_ranks(dtensor(), spawn=True):
        assert exact == native
        assert [describe_collective(one) for one in native] == [
            "all_reduce SUM of [5, 4] over ranks 0, 1, P(sum) to R, in down"
        ]


def test_in_the_backward_the_gradient_before_it_says_where():
    target = ProofTarget(step=steps.make_step(), parallelize=input_with_a_gradient)
    for exact, native in run_ranks(target):
        assert exact == native
        assert [describe_collective(one) for one in native] == [
            "AllReduce SUM of [5, 4] over ranks 0, 1, in model",
            "AllReduce SUM of [5, 6] over ranks 0, 1, after output gradient model",
        ]


def input_with_a_gradient(model, mesh):
    model = steps.megatron(None)(model, mesh)
    model.register_forward_pre_hook(lambda _module, inputs: (inputs[0].clone().requires_grad_(),))
    return model


# Where it parts -------------------------------------------------------------------------------------------------------


class ReducedIn(torch.autograd.Function):
    """All-reduce forward; backward as it comes."""

    @staticmethod
    def forward(_ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(_ctx, grad):
        return grad


def reduced_only_in(dtypes):
    """Column, then row by hand; the row's sum is taken in some dtypes only."""

    def shard(model, mesh):
        model = steps.megatron("no all-reduce")(model, mesh)

        def forward(x):
            h = F.gelu(F.linear(x, model.up.weight, model.up.bias))
            partial = F.linear(h, model.down.weight)
            reduced = ReducedIn.apply(partial) if partial.dtype in dtypes else partial
            return reduced + model.down.bias

        model.forward = forward
        return model

    return shard


def parted(proof):
    return [finding for finding in proof.findings if finding.key.phase is Phase.COLLECTIVES]


def test_a_sum_taken_in_float64_alone_is_found_in_the_sequence_and_in_the_numbers():
    proof = prove(steps.make_step(), parallelize=reduced_only_in({torch.float64}), devices=2, trials=1)
    assert not proof.ok
    (finding,) = parted(proof)
    assert (finding.verdict, finding.root, finding.ranks) == (Verdict.WRONG, True, (0, 1))
    collective = CollectiveCall(step=0, kind="AllReduce SUM", ranks=(0, 1), shapes=((5, 4),), location="in model")
    assert finding.cause == Cause(kind=CauseKind.COLLECTIVES_DIVERGE, exact_collective=collective, dtype="float32")
    assert {one.verdict for one in proof.findings if one.key.phase is Phase.LOSS} == {Verdict.WRONG}
    assert [one.key.phase for one in proof.roots] == [Phase.COLLECTIVES]
    told = "in exact arithmetic AllReduce SUM of [5, 4] over ranks 0, 1, in model; in float32 none"
    assert told in render_text(proof)


def test_the_same_code_in_every_dtype_parts_nowhere():
    both = reduced_only_in({torch.float64, torch.float32})
    proof = prove(steps.make_step(), parallelize=both, devices=2, trials=1)
    assert parted(proof) == []
    assert proof.ok
    assert proof.native.collectives == 1
    assert "1 collectives a rank, the same" in render_text(proof)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_collective_more_is_found_although_every_number_is_right(dtype):
    proof = prove(steps.make_step(), parallelize=steps.idle_collective(dtype), devices=2, trials=1)
    (finding,) = parted(proof)
    assert not proof.ok
    assert [one for one in proof.findings if not one.verdict.ok] == [finding]
    collective = CollectiveCall(step=0, kind="AllReduce SUM", ranks=(0, 1), shapes=((3,),), location="in up")
    exact, native = finding.cause.exact_collective, finding.cause.native_collective
    with_it, without = (native, exact) if dtype == torch.float32 else (exact, native)
    assert with_it == collective
    assert without is None


@pytest.mark.processes
@pytest.mark.slow
def test_processes_find_it_too():
    target = ProofTarget(step=steps.make_step(), parallelize=steps.idle_collective_in_float32)
    (first, second) = (
        [Records(collectives=one) for one in run] for run in zip(*run_ranks(target, spawn=True), strict=True)
    )
    assert find_divergences(first, second) != []
