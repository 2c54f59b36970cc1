"""The table of rules: an op has one rule, found by its name; how many elements a selection compared."""

from unittest import mock

import pytest
import torch

from shardproof.exact.rules import registry
from shardproof.exact.rules.registry import (
    REAL_TOO,
    RULES,
    SELECTIONS,
    compared_for_one,
    find_op,
    formula,
    moves,
    runs_on_reals,
    selects,
    sums,
)


@pytest.fixture
def empty_table(monkeypatch):
    """A table without rules, in the real one's stead."""
    monkeypatch.setattr(registry, "RULES", {})
    return registry.RULES


# One rule for each op -------------------------------------------------------------------------------------------------

REGISTRATIONS = {
    "formula": lambda name: formula(name)(lambda _m, x: x),
    "move": moves,
    "sum": lambda name: sums(name, count=lambda *_args: 1),
}


@pytest.mark.parametrize("first", REGISTRATIONS)
@pytest.mark.parametrize("second", REGISTRATIONS)
def test_an_op_registered_twice_is_an_error_and_keeps_its_first_rule(first, second, empty_table):
    REGISTRATIONS[first]("flip.default")
    rule = empty_table[find_op("flip.default")]
    assert rule.kind == first
    with pytest.raises(ValueError, match=rf"'flip.default' has a rule already, a {first}; an op needs exactly one"):
        REGISTRATIONS[second]("flip.default")
    assert empty_table[find_op("flip.default")] is rule


@pytest.mark.parametrize("kind", REGISTRATIONS)
def test_another_overload_of_an_op_is_another_op(kind, empty_table):
    for name in ("add.Tensor", "add.Scalar"):
        REGISTRATIONS[kind](name)
    assert set(empty_table) == {torch.ops.aten.add.Tensor, torch.ops.aten.add.Scalar}


def test_one_name_twice_in_a_registration_is_an_error_too(empty_table):
    with pytest.raises(ValueError, match=r"'flip.default' has a rule already"):
        moves("flip.default", "roll.default", "flip.default")


def test_the_indices_of_nonzero_elements_come_of_comparing_them_with_zero():
    """`nonzero` is no movement of elements: the shape of its result depends on the values."""
    op = find_op("nonzero.default")
    assert RULES[op].kind == "formula"
    assert op in SELECTIONS


# What a registration says ---------------------------------------------------------------------------------------------


def test_a_registration_keeps_what_was_said_of_the_op(empty_table):
    moves("flip.default")
    sums("cumsum.default", count=len)
    formula("exp.default", "log.default")(abs)
    formula("sin.default", symbols=True)(abs)
    formula("softmax.int", elementwise=True)(abs)
    rules = {str(op).removeprefix("aten."): rule for op, rule in empty_table.items()}
    said = {name: (rule.kind, rule.symbols, rule.elementwise) for name, rule in rules.items()}
    assert said == {
        "flip.default": ("move", True, False),
        "cumsum.default": ("sum", False, False),
        "exp.default": ("formula", False, False),
        "log.default": ("formula", False, False),
        "sin.default": ("formula", True, False),
        "softmax.int": ("formula", False, True),
    }
    assert rules["flip.default"].function is None
    assert rules["cumsum.default"].function is len


def test_the_decorated_function_stays_itself(empty_table):
    def exponential(_m, x):
        return x

    assert formula("exp.default")(exponential) is exponential


def test_ops_of_other_namespaces_and_default_overloads_are_found_by_name():
    assert find_op("shardproof::cut.default") is torch.ops.shardproof.cut.default
    assert find_op("relu") is torch.ops.aten.relu.default
    assert find_op("mul.Tensor") is torch.ops.aten.mul.Tensor


@pytest.mark.parametrize("name", ["no_such_op.default", "mul.NoSuchOverload", "nowhere::mul.Tensor"])
def test_an_op_that_torch_does_not_have_is_named(name):
    with pytest.raises(ValueError, match=f"torch {torch.__version__.split('+')[0]}.* has no op '{name}'"):
        find_op(name)


def test_selections_and_ops_that_run_on_reals_are_added_to_their_sets():
    with mock.patch.object(registry, "SELECTIONS", set()), mock.patch.object(registry, "REAL_TOO", set()):
        selects("sort.default", "topk.default")
        runs_on_reals("histc.default")
        assert {find_op("sort.default"), find_op("topk.default")} == registry.SELECTIONS
        assert {find_op("histc.default")} == registry.REAL_TOO
    assert find_op("topk.default") in SELECTIONS & REAL_TOO


# Elements compared for one element of a selection's result ------------------------------------------------------------

COMPARED = {
    "elementwise": ("lt.Tensor", [(4, 5)], (4, 5), torch.bool, 2),
    "elementwise, broadcast": ("lt.Tensor", [(5,), (4, 5)], (4, 5), torch.bool, 2),
    "along the first dim": ("argmax.default", [(7, 5)], (5,), torch.long, 7),
    "along the last dim": ("argmax.default", [(7, 5)], (7,), torch.long, 5),
    "along a middle dim": ("argmax.default", [(2, 9, 3)], (2, 3), torch.long, 9),
    "dim kept": ("argmax.default", [(7, 5)], (7, 1), torch.long, 5),
    "cut short": ("topk.default", [(7, 5)], (7, 2), torch.long, 5),
    "as long as it was": ("sort.default", [(7, 5)], (7, 5), torch.long, 7),  # which dim is not told by the shape
    "square": ("argmax.default", [(5, 5)], (5,), torch.long, 5),
    "all to one": ("argmax.default", [(7, 5)], (), torch.long, 35),
    "a vector to one": ("argmax.default", [(7,)], (), torch.long, 7),
    "two at least": ("argmax.default", [(1, 3)], (3,), torch.long, 2),
    "one element": ("argmax.default", [()], (), torch.long, 2),
    "unlike shapes": ("searchsorted.Tensor", [(9,), (4, 2)], (4, 2), torch.long, 9),
    "a window": ("max_pool2d_with_indices.default", [(1, 1, 6, 4)], (1, 1, 6, 1), torch.long, 24),
    "a truth value of a whole row": ("any.dim", [(7, 5)], (7,), torch.bool, 5),
}


@pytest.mark.parametrize("name", COMPARED)
def test_an_upper_bound_on_the_elements_that_were_compared_for_one(name):
    op, given, found, dtype, count = COMPARED[name]
    operands = [torch.zeros(shape, dtype=torch.float64) for shape in given]
    assert compared_for_one(find_op(op), operands, torch.zeros(found, dtype=dtype)) == count
