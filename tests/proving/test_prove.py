"""Right shardings are proved, planted bugs found at their place and for their reason, bad input is one clear line."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from tests.proving import steps
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase


def explanation(cause):
    """The cause, if it is a relation; None where it only says where a tensor differs."""
    return None if cause is not None and cause.kind is CauseKind.UNEXPLAINED else cause


def names(findings):
    return {(finding.key.phase, finding.key.name) for finding in findings}


@pytest.mark.parametrize("devices", [2, 4])
def test_dtensor_column_then_row_is_proved(devices):
    proof = prove(steps.make_step(), parallelize=steps.parallelize, devices=devices, trials=2)
    assert proof.ok
    assert names(proof.findings) >= {(Phase.GRADIENT, "up.weight"), (Phase.UPDATE, "down.bias"), (Phase.LOSS, "loss")}
    assert all(finding.verdict is Verdict.PROVED for finding in proof.findings)


def test_adam_clipping_and_several_steps_are_proved():
    step = steps.make_step(optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.1), clip_norm=1.0, steps=2)
    proof = prove(step, parallelize=steps.parallelize, devices=2, trials=1)
    assert proof.ok
    assert (Phase.NORM, "gradient norm") in names(proof.findings)
    assert (Phase.STATE, "up.weight/exp_avg_sq") in names(proof.findings)
    assert {finding.key.step for finding in proof.findings} == {0, 1}


@pytest.mark.parametrize("devices", [2, 4])
def test_a_sharding_by_hand_is_proved(devices):
    assert prove(steps.make_step(), parallelize=steps.megatron(None), devices=devices, trials=1).ok


@pytest.mark.parametrize(
    ("bug", "root", "cause"),
    [
        ("no all-reduce", (Phase.OUTPUT, "model"), Cause(kind=CauseKind.PARTS_WITH_BIAS, axes=("tp",))),
        (
            "bias inside",
            (Phase.OUTPUT, "model"),
            Cause(kind=CauseKind.SAME_VECTOR_OFF),
        ),
        ("swapped shards", (Phase.OUTPUT, "model"), None),
    ],
)
def test_a_bug_in_the_forward_is_found_at_the_first_output(bug, root, cause):
    proof = prove(steps.make_step(), parallelize=steps.megatron(bug), devices=2, trials=1)
    assert not proof.ok
    assert names(proof.roots) == {root}
    assert explanation(proof.roots[0].cause) == cause


def scaled_gradient(model, mesh):
    model = steps.parallelize(model, mesh)
    model.up.weight.register_hook(lambda gradient: gradient * 2)
    return model


def test_a_gradient_twice_too_large_is_named_so_and_is_the_only_cause():
    proof = prove(steps.make_step(), parallelize=scaled_gradient, devices=2, trials=1)
    assert names(proof.roots) == {(Phase.GRADIENT, "up.weight")}
    assert proof.roots[0].cause == Cause(kind=CauseKind.SCALED, factor=Fraction(2))


def unsynced_gradient(model, mesh):
    """Each rank sees its own half of the batch's rows in one bias gradient, and nobody adds them up."""
    model = steps.megatron(None)(model, mesh)
    rank = mesh.get_local_rank()
    keep = torch.zeros(4, dtype=torch.float64)
    keep[rank * 2 : rank * 2 + 2] = 1
    model.down.bias.register_hook(lambda gradient: gradient * keep.to(gradient.dtype))
    return model


def test_partial_gradients_are_named_as_a_missing_all_reduce():
    proof = prove(steps.make_step(), parallelize=unsynced_gradient, devices=2, trials=1)
    assert names(proof.roots) == {(Phase.GRADIENT, "down.bias")}
    cause = Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("tp",), mend=Mend.ALL_REDUCE_GRADIENT)
    assert proof.roots[0].cause == cause


def one_replica_differs(model, mesh):
    model = steps.megatron(None)(model, mesh)
    if mesh.get_local_rank() == 1:
        model.down.bias.register_hook(lambda gradient: gradient + 1)
    return model


def test_a_replica_that_differs_is_named_with_its_rank():
    proof = prove(steps.make_step(), parallelize=one_replica_differs, devices=2, trials=1)
    assert names(proof.roots) == {(Phase.GRADIENT, "down.bias")}
    assert proof.roots[0].cause == Cause(kind=CauseKind.REPLICAS_DIFFER, ranks=(1,))
    assert proof.roots[0].ranks == (1,)


def never_trained(model, mesh):
    model = steps.parallelize(model, mesh)
    model.up.bias.requires_grad_(False)
    return model


def test_a_parameter_without_a_gradient_on_one_side_is_a_finding():
    proof = prove(steps.make_step(), parallelize=never_trained, devices=2, trials=1)
    assert not proof.ok
    assert (Phase.GRADIENT, "up.bias") in names(proof.roots)
    cause = next(f.cause for f in proof.roots if f.key.name == "up.bias")
    assert cause == Cause(kind=CauseKind.FROZEN)


def test_a_tiny_error_that_float32_would_call_rounding_is_wrong():
    def slightly_off(model, mesh):
        model = steps.parallelize(model, mesh)
        model.down.register_forward_hook(lambda _m, _i, output: output * (1 + 2**-40))
        return model

    proof = prove(steps.make_step(), parallelize=slightly_off, devices=2, trials=1)
    assert not proof.ok
    assert proof.roots[0].verdict is Verdict.WRONG
    assert proof.roots[0].rounding is not None
    assert not proof.roots[0].rounding.agrees


def test_the_same_function_written_otherwise_is_undecided_and_not_wrong():
    class Softmax(nn.Module):
        def __init__(self, shift):
            super().__init__()
            self.linear, self.shift = nn.Linear(6, 4), shift

        def forward(self, x):
            return torch.softmax(self.linear(x) + self.shift, -1)  # a shift changes nothing but the digits

    step = steps.make_step(model=lambda: Softmax(0.0))

    def shifted(model, _mesh):
        model.shift = 1.0
        return model

    proof = prove(step, parallelize=shifted, devices=2, trials=1)
    assert not proof.ok
    told = {finding.verdict for finding in proof.roots if finding.key.phase is not Phase.SHARDING}
    assert told == {Verdict.UNDECIDED}


def scale_first(model, _mesh):
    with torch.no_grad():
        model.up.weight.mul_(2)
    return model


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"parallelize": lambda _model, _mesh: None}, "returned NoneType; it must return the sharded model"),
        ({"parallelize": lambda model, _mesh: nn.Sequential(model)}, "changed the parameters' names"),
        (
            {"parallelize": scale_first},
            "starts with values that are not in the full state",
        ),
        ({"devices": 1}, "devices is 1"),
        ({"trials": 0}, "trials is 0"),
        ({"step": steps.make_step(model=lambda: 1 / 0)}, "the model cannot be built: ZeroDivisionError"),
        ({"step": steps.make_step(model=nn.ReLU)}, "a torch.nn.Module with parameters"),
    ],
)
def test_what_cannot_run_says_why(arguments, said):
    settings = {"step": steps.make_step(), "parallelize": steps.parallelize, "devices": 2, "trials": 1} | arguments
    with pytest.raises(CannotRunError, match=said):
        prove(settings.pop("step"), **settings)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"forward": lambda model, batch: model(batch)}, "exactly one of loss"),
        ({"loss": None}, "exactly one of loss"),
        ({"batch": torch.zeros(2)}, "batch is"),
        ({"steps": 0}, "steps is 0"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
    ],
)
def test_a_step_that_makes_no_sense_says_why(changes, said):
    with pytest.raises(CannotRunError, match=said):
        steps.make_step(**changes)


def test_ranks_that_wait_for_each_other_are_named():
    def hanging(model, mesh):
        if mesh.get_local_rank() == 0:
            torch.distributed.all_reduce(torch.ones(3))
        return steps.parallelize(model, mesh)

    with pytest.raises(CannotRunError, match="rank"):
        prove(steps.make_step(), parallelize=hanging, devices=2, trials=1)


def test_tied_weights_are_one_tensor():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, ids):
            return self.head(self.embedding(ids))

    step = steps.make_step(model=Tied, batch=(torch.arange(7), torch.arange(7).flip(0)), loss=F.cross_entropy)
    proof = prove(step, parallelize=lambda model, _mesh: model, devices=2, trials=1, allow=["VACUOUS sharding *"])
    assert proof.ok
    assert {f.key.name for f in proof.findings if f.key.phase is Phase.GRADIENT} == {"embedding.weight"}


def bfloat16_step(**changes):
    """A step in bfloat16, in which many elements of a parameter have one value."""
    batch = tuple(one.bfloat16() for one in steps.make_batch())
    return steps.make_step(model=lambda: steps.MLP().bfloat16(), batch=batch, **changes)


@pytest.mark.parametrize(("bug", "taken"), [("", False), ("no all-reduce", True)])
def test_runs_in_float64_are_taken_only_where_exact_ones_do_not_tell_all(bug, taken):
    told = []
    proof = prove(steps.make_step(), parallelize=steps.megatron(bug), devices=2, trials=2, tell=told.append)
    assert proof.ok is not taken
    assert told[-2:] == (["the numbers in float64"] if taken else ["1 more trial"]) + ["the numbers in float32"]


@pytest.mark.parametrize("spawn", [False, pytest.param(True, marks=pytest.mark.processes)])
def test_what_the_first_runs_have_told_serves_those_in_which_values_do_not_tell_elements_apart(spawn):
    step = bfloat16_step(clip_norm=0.1)
    proof = prove(step, parallelize=steps.megatron(""), devices=2, trials=1, spawn=spawn)
    assert proof.ok
    assert proof.native.dtype == "bfloat16"
    numbers = {finding.key.phase: finding.numbers for finding in proof.findings if finding.numbers is not None}
    assert numbers[Phase.NORM].within
    assert numbers[Phase.UPDATE].within
