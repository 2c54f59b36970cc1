"""A first cause names the line of the user's code that called the module, and nothing of the machine it ran on."""

import inspect

import pytest
from tests.proving import steps

from shardproof.proving.prove import prove
from shardproof.report.text import render_text


def line_of(function, text):
    lines, start = inspect.getsourcelines(function)
    return next(start + i for i, line in enumerate(lines) if text in line)


def test_a_wrong_gradient_names_the_line_that_uses_the_parameter():
    proof = prove(steps.make_step(), parallelize=steps.scaled_gradient, devices=2, trials=1)
    line = line_of(steps.MLP.forward, "self.up(x)")
    assert [root.source_line for root in proof.roots] == [f"tests/proving/steps.py:{line} in forward"]
    assert f"Its module is called at tests/proving/steps.py:{line} in forward." in render_text(proof)


@pytest.mark.processes
def test_spawned_ranks_name_the_same_line():
    step = steps.make_step()
    simulated, spawned = (
        prove(step, parallelize=steps.scaled_gradient, devices=2, trials=1, spawn=spawn) for spawn in (False, True)
    )
    assert [root.source_line for root in spawned.roots] == [root.source_line for root in simulated.roots]
    assert simulated.roots[0].source_line


def test_a_module_that_the_prover_calls_has_no_line_of_the_users():
    proof = prove(steps.make_step(), parallelize=steps.megatron("bias inside"), devices=2, trials=1)
    assert [(root.key.name, root.source_line) for root in proof.roots] == [("model", "")]
