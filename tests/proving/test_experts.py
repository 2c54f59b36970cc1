"""Experts on ranks of their own, with a learned router: each reported bug at its place, simulated and on processes."""

import pytest
from benchmarks.mutants.models.dispatch import DispatchLines, exchange_functionally, split_experts
from benchmarks.mutants.models.routed import Mixture, mixture_step
from tests.proving.planted_bugs import ON_PROCESSES, bugs_numbered, require_killed, require_same_on_processes

from shardproof.proving.prove import prove
from shardproof.report.text import render_text

BUGS = bugs_numbered(103, *range(130, 141))
WAYS = {
    "all-to-all": ("all-to-all", Mixture(), {"ep": 2}),
    "all-to-all, functional": ("all-to-all", Mixture(), {"ep": 2}),
    "all-to-all, grouped products": ("all-to-all", Mixture(grouped=True), {"ep": 2}),
    "all-to-all, capacity": ("all-to-all", Mixture(capacity=24), {"ep": 4}),
    "all-to-all, injected loss": ("all-to-all", Mixture(balance=0.5, z=0.1, injected=True), {"ep": 2}),
    "all-to-all, copies": ("all-to-all", Mixture(), {"dp": 2, "ep": 2}),
    "gathered tokens": ("gathered tokens", Mixture(balance=0.5), {"ep": 2}),
    "summed outputs": ("summed outputs", Mixture(shared=True), {"tp": 2}),
    "buffers": ("buffers", Mixture(capacity=10), {"ep": 2}),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_of_experts_is_killed_at_its_place_and_for_its_reason(name):
    require_killed(BUGS[name])


@pytest.mark.parametrize("spawn", [False, ON_PROCESSES])
@pytest.mark.parametrize("name", WAYS)
def test_every_way_to_bring_tokens_to_experts_is_proved(name, spawn):
    way, mixture, mesh = WAYS[name]
    lines = DispatchLines(exchange=exchange_functionally) if "functional" in name else None
    step = mixture_step(mixture, 48, steps=2)
    proof = prove(step, parallelize=split_experts(way, lines), mesh=mesh, trials=1, spawn=spawn)
    assert proof.ok, render_text(proof)
    assert any(finding.key.name == "experts.up" for finding in proof.findings)


@pytest.mark.parametrize("spawn", [False, ON_PROCESSES])
def test_ranks_without_tokens_are_proved_by_as_many_routings_as_reach_every_expert(spawn):
    """Of four tokens, one on each rank, some expert and its rank get none in nearly every routing."""
    step = mixture_step(Mixture(chosen=1), 4, steps=1)
    proof = prove(step, parallelize=split_experts("all-to-all"), mesh={"ep": 4}, trials=1, spawn=spawn)
    assert proof.ok, render_text(proof)
    assert proof.trials > 1


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("name", ["M130", "M133", "M134", "M135"])
def test_processes_say_the_same_of_a_bug(name):
    require_same_on_processes(BUGS[name])
