"""ZeRO by hand over flat parameters; gradients accumulated over DDP, FSDP2 and HSDP: right ones proved, bugs found."""

import pytest
import torch
from benchmarks.mutants.models.accumulation import Accumulation
from benchmarks.mutants.models.zero import Zero
from tests.proving.planted_bugs import ON_PROCESSES, bugs_numbered, require_killed, require_same_on_processes

from shardproof.proving.prove import prove
from shardproof.report.text import render_text

BUGS = bugs_numbered(*range(182, 194))
COPIES = {"dp_replicate": 2, "dp_shard": 2}
WAYS = {
    "ZeRO-1": (Zero(stage=1, clipped=True), {"dp": 2}),
    "ZeRO-1, four ranks": (Zero(stage=1, buffers=2), {"dp": 4}),
    "ZeRO-2": (Zero(clipped=True), {"dp": 2}),
    "ZeRO-2, four ranks": (Zero(buffers=3, parts=2, clipped=True), {"dp": 4}),
    "DDP": (Accumulation(way="DDP", clipped=True), {"dp": 2}),
    "FSDP2": (Accumulation(parts=4), {"dp": 2}),
    "FSDP2, each reduced": (Accumulation(every=True, clipped=True), {"dp": 4}),
    "HSDP": (Accumulation(way="HSDP"), COPIES),
    "HSDP, shards reduced each time": (Accumulation(way="HSDP", every=True), COPIES),
    "bfloat16, reduced in float32": (Accumulation(dtype=torch.bfloat16, reduce_dtype=torch.float32), {"dp": 2}),
}
FACTORS = {  # in float32 a reduction that gloo has not
    "a gradient divide factor": (Accumulation(factor="gradient"), {"dp": 2}),
    "its older name": (Accumulation(factor="reduce-scatter"), {"dp": 4}),
    "a factor for copies of shards": (Accumulation(way="HSDP", factor="gradient"), COPIES),
    "a factor in float16": (Accumulation(dtype=torch.float16, factor="gradient"), {"dp": 2}),
}


def run(one, mesh, **settings):
    return prove(one.make_step(), candidate=one.train, mesh=mesh, trials=1, **settings)


@pytest.mark.parametrize("spawn", [False, ON_PROCESSES])
@pytest.mark.parametrize("name", WAYS)
def test_every_way_is_proved(name, spawn):
    proof = run(*WAYS[name], spawn=spawn)
    assert proof.ok, render_text(proof)


@pytest.mark.parametrize("name", FACTORS)
def test_divide_factors_are_proved(name):
    proof = run(*FACTORS[name])
    assert proof.ok, render_text(proof)


def test_the_parts_of_flat_parameters_are_compared_gradient_state_and_update():
    """In ZeRO-2 they stand for the gradients and states that the model's own parameters do not have."""
    names = {(str(one.key.phase), one.key.name) for one in run(Zero(), {"dp": 2}).findings}
    assert names >= {("gradient", "part0"), ("optimizer state", "part0/exp_avg"), ("updated parameter", "part0")}
    assert ("updated parameter", "last.weight") in names
    assert ("gradient", "last.weight") not in names


class WatchesTheModelAlone:
    """A run of which the training watches no flat parts."""

    def __init__(self, run):
        self.run = run

    def __getattr__(self, name):
        return getattr(self.run, name)

    def watch(self, model, _parts):
        return self.run.watch(model)


def test_states_of_parts_that_are_not_watched_are_listed():
    one = Zero(stage=1)
    proof = prove(one.make_step(), candidate=lambda run: one.train(WatchesTheModelAlone(run)), mesh={"dp": 2}, trials=1)
    assert proof.ok, render_text(proof)
    assert {name.partition(" ")[0] for name in proof.unwatched_states} == {"exp_avg", "exp_avg_sq"}
    assert "Optimizer state of parameters that are not watched, compared with nothing: exp_avg [" in render_text(proof)
    assert run(one, {"dp": 2}).unwatched_states == ()


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_killed_at_its_place_and_for_its_reason(name):
    require_killed(BUGS[name])


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("name", ["M183", "M184", "M185", "M189"])
def test_processes_say_the_same_of_a_bug(name):
    require_same_on_processes(BUGS[name])
