"""A proof target holds a step and one candidate, and travels to another process if both of them can."""

import threading

import pytest
from tests.proving import steps

from shardproof.errors import CannotRunError
from shardproof.proving.running.target import ProofTarget
from shardproof.worlds.transport import pack, unpack


def train(run):
    run.watch(None)


@pytest.mark.parametrize("candidates", [{}, {"parallelize": steps.parallelize, "candidate": train}])
def test_neither_and_both_are_refused(candidates):
    with pytest.raises(CannotRunError, match=r"exactly one of parallelize\(model, mesh\) and candidate\(run\)"):
        ProofTarget(step=steps.make_step(), **candidates)


def test_a_target_of_functions_travels_and_is_its_own_reload():
    target = ProofTarget(step=steps.make_step(), parallelize=steps.parallelize)
    arrived = unpack(pack(target))
    assert arrived() is arrived
    assert (arrived.step.model, arrived.parallelize) == (steps.MLP, steps.parallelize)


def test_a_target_of_a_closure_travels_unless_it_holds_what_cannot():
    arrived = unpack(pack(ProofTarget(step=steps.make_step(), parallelize=steps.megatron(None))))
    assert callable(arrived.parallelize)
    with pytest.raises(CannotRunError, match="cannot send a value to another process"):
        pack(ProofTarget(step=steps.make_step(), parallelize=steps.megatron(threading.Lock())))
