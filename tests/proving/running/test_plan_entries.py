"""Entries of a plan that match nothing are noted; other warnings are shown as they were."""

import warnings

import pytest
from torch import nn

from shardproof.proving.running.plan_entries import note_entries, noted_entries, unmatched_entries_noted

TORCH = "Parallelize plan key '{}' could not be resolved: no submodule matching token 'a' in module M, skipping it."


def test_warnings_of_torch_are_noted_once_each_and_not_shown():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with unmatched_entries_noted() as entries:
            for name in ("a.up", "a.down", "a.up"):
                warnings.warn(TORCH.format(name), stacklevel=1)
            warnings.warn("something else", stacklevel=1)
    assert entries == ["a.up", "a.down"]
    assert [str(one.message) for one in shown] == ["something else"]


def test_afterwards_they_are_shown_again():
    with unmatched_entries_noted():
        pass
    with pytest.warns(UserWarning, match="could not be resolved"):
        warnings.warn(TORCH.format("a"), stacklevel=1)


def test_a_model_may_carry_them():
    model = nn.Linear(2, 2)
    assert noted_entries(model) == ()
    note_entries(model, ["up.*"])
    assert noted_entries(model) == ("up.*",)
