"""Ops that make tensors: which are taken for real constants, and which leave memory unwritten."""

import pytest
import torch

from shardproof.exact import ExactArithmetic
from shardproof.exact.rules.creation import EMPTY, FACTORIES
from shardproof.exact.rules.registry import RULES, find_op


@pytest.mark.parametrize("name", ["empty.memory_format", "empty_like.default", "new_empty.default"])
def test_memory_that_is_not_written_yet(name):
    assert find_op(name) in EMPTY


@pytest.mark.parametrize(
    "name", ["zeros.default", "full_like.default", "arange.start_step", "eye.m", "hann_window.periodic"]
)
def test_ops_that_write_what_they_make(name):
    assert find_op(name) in FACTORIES - EMPTY


def test_every_op_that_leaves_memory_unwritten_is_a_factory_and_none_has_a_rule():
    assert EMPTY < FACTORIES
    assert not FACTORIES & set(RULES)


def test_forms_that_write_into_a_given_tensor_are_not_factories():
    assert torch.ops.aten.zeros.out not in FACTORIES
    assert torch.ops.aten.arange.start_out not in FACTORIES
    assert torch.ops.aten.randn.default not in FACTORIES  # its result is drawn


def test_what_is_made_inside_is_the_constant_that_it_is():
    with ExactArithmetic(seed=1) as exact:
        assert exact.digits(torch.full((2,), 3.0)).tolist() == [3, 3]
        assert exact.digits(torch.arange(3.0) - 1).tolist() == [-1, 0, 1]
        assert exact.digits(torch.zeros(2) + 1).tolist() == [1, 1]
