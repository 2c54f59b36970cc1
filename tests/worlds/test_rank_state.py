"""Snapshots of Python state: equal until something changes, and put back in place."""

import itertools
import random
from argparse import Namespace
from collections import deque

import pytest
import torch

from shardproof.worlds.rank_state import states_of


class Thing:
    def __init__(self, value):
        self.value = value


def change_cell():
    value = 1

    def function():
        nonlocal value
        value += 1
        return value

    return function


def everywhere(_name):
    return True


STATES = {
    "dict": ({"a": 1}, lambda x: x.update(a=2), lambda x: dict(x)),
    "dict with another key": ({"a": None}, lambda x: (x.pop("a"), x.update(b=None)), lambda x: list(x)),
    "list": ([1, 2], lambda x: x.reverse(), lambda x: list(x)),
    "deque": (deque([1, 2]), lambda x: x.rotate(), lambda x: list(x)),
    "set": ({1}, lambda x: x.add(2), lambda x: sorted(x)),
    "instance": (Thing(1), lambda x: setattr(x, "value", 2), lambda x: x.value),
    "namespace": (Namespace(a=1), lambda x: setattr(x, "a", 2), lambda x: x.a),
    "bytearray": (bytearray(b"ab"), lambda x: x.reverse(), lambda x: bytes(x)),
    "generator": (
        torch.Generator().manual_seed(1),
        lambda x: torch.rand(1, generator=x),
        lambda x: x.get_state().sum().item(),
    ),
    "random": (random.Random(1), lambda x: x.random(), lambda x: x.getstate()),
}


@pytest.mark.parametrize("name", STATES)
def test_a_change_is_seen_and_undone_in_place(name):
    value, mutate, show = STATES[name]
    (state,) = states_of("x", value, everywhere)
    snapshot, shown = state.take(), show(value)
    assert state.separable
    assert state.equals(snapshot)
    mutate(value)
    assert not state.equals(snapshot)
    assert show(value) != shown
    changed = state.take()
    state.put(snapshot)
    assert state.equals(snapshot)
    assert show(value) == shown
    state.put(changed)
    assert show(value) != shown


def test_a_variable_of_an_outer_function():
    function = change_cell()
    (state,) = states_of("f", function, everywhere)
    snapshot = state.take()
    assert function() == 2
    assert not state.equals(snapshot)
    state.put(snapshot)
    assert function() == 2


@pytest.mark.parametrize(
    ("value", "mutate"),
    [
        (torch.zeros(2), lambda x: x.add_(1)),
        (itertools.count(), next),
        (iter([1, 2]), next),
        ((number for number in range(3)), next),
    ],
)
def test_state_of_c_is_seen_and_not_separable(value, mutate):
    (state,) = states_of("x", value, everywhere)
    assert not state.separable
    snapshot = state.take()
    assert state.equals(snapshot)
    mutate(value)
    assert not state.equals(snapshot)


@pytest.mark.parametrize("value", [1, "a", (1, 2), None, len, property(), torch.float32, Thing])
def test_what_does_not_change_or_is_not_the_users_has_no_state(value):
    assert states_of("x", value, lambda _name: False) == []


class Lazy:
    """Its `__class__` and `__eq__` must not be asked."""

    @property
    def __class__(self):
        raise AssertionError("asked")

    def __getattr__(self, name):
        raise LookupError(name)

    def __eq__(self, other):
        raise AssertionError("compared")

    __hash__ = None


def test_no_code_of_the_users_runs():
    lazy = Lazy()
    content = {"a": lazy}
    (state,) = states_of("x", content, everywhere)
    snapshot = state.take()
    assert state.equals(snapshot)
    content["a"] = Lazy()
    assert not state.equals(snapshot)
    assert states_of("x", lazy, lambda _name: False) == []
    assert len(states_of("x", lazy, everywhere)) == 1
