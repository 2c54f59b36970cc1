"""Ranks in processes find what simulated ranks find, and a step that cannot travel, a hang and a death say so."""

import re
import time

import pytest
from tests.proving import steps

from shardproof.errors import CannotRunError
from shardproof.proving.prove import prove
from shardproof.report.words import describe

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(("parallelize", "right"), [(steps.parallelize, True), (steps.scaled_gradient, False)])
def test_simulated_and_spawned_ranks_agree_on_every_finding(parallelize, right):
    simulated = prove(steps.make_step(), parallelize=parallelize, devices=2, trials=2)
    spawned = prove(steps.make_step(), parallelize=parallelize, devices=2, trials=2, spawn=True)
    assert spawned == simulated
    assert spawned.ok is right
    if not right:
        assert [describe(root) for root in spawned.roots] == ["step 1, gradient up.weight WRONG - 2 times too large"]


def test_a_step_of_closures_is_loaded_again_in_each_rank():
    subject = steps.load_with_lambdas()
    step, parallelize = subject.step, subject.parallelize
    simulated = prove(step, parallelize=parallelize, devices=2, trials=1)
    spawned = prove(step, parallelize=parallelize, devices=2, trials=1, spawn=True, reload=steps.load_with_lambdas)
    assert spawned == simulated
    assert not spawned.ok


@pytest.mark.parametrize(("bug", "right"), [(None, True), ("bias inside", False)])
def test_a_step_of_closures_travels_by_value(bug, right):
    class OwnMLP(steps.MLP):
        pass

    step = steps.make_step(model=lambda: OwnMLP(), loss=lambda output, target: (output - target).square().mean())
    simulated = prove(step, parallelize=steps.megatron(bug), devices=2, trials=1)
    spawned = prove(step, parallelize=steps.megatron(bug), devices=2, trials=1, spawn=True)
    assert spawned == simulated
    assert spawned.ok is right


@pytest.mark.parametrize(
    ("parallelize", "said"), [(steps.dies, "rank 1 was ended by SIGKILL"), (steps.raises, "rank 1: Overflow")]
)
def test_a_rank_that_ends_is_named(parallelize, said):
    with pytest.raises(CannotRunError, match=said):
        prove(steps.make_step(), parallelize=parallelize, devices=2, trials=1, spawn=True)


@pytest.mark.slow
def test_ranks_that_get_nowhere_are_given_up():
    begun = time.monotonic()
    with pytest.raises(CannotRunError, match="ranks 0, 1 made no progress for 8 s") as caught:
        prove(steps.make_step(), parallelize=steps.hangs, devices=2, trials=1, spawn=True, timeout=8)
    assert time.monotonic() - begun < 50
    # The rank that hangs is in the user's own line, the other where it waits for it.
    assert re.search(r"; rank 0 is in barrier; rank 1 is in <lambda> at steps.py:\d+$", str(caught.value))


@pytest.mark.slow
def test_a_step_slower_than_the_timeout_is_alive_while_it_records():
    # The control of the test above: 9.6 s of collectives that the world does not see, of which none takes 8 s.
    begun = time.monotonic()
    proof = prove(steps.make_step(), parallelize=steps.slow, devices=2, trials=3, spawn=True, timeout=8)
    assert proof.ok
    assert time.monotonic() - begun > 8
