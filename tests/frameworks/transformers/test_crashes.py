"""A crash in one line: what fails, in which module, at which line, by which entries of the plan."""

import pytest
import torch
from torch import nn

from shardproof.frameworks.transformers.crashes import describe_crash


class Inner(nn.Module):
    def forward(self, x):
        raise KeyError("lost\nand more")


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Identity(), Inner()

    def forward(self, x):
        return self.second(self.first(x))


@pytest.fixture
def said():
    def describe(plan):
        model = Outer()
        try:
            model(torch.ones(1))
        except KeyError as error:
            return describe_crash(error, model, plan)
        raise AssertionError

    return describe


def test_module_line_and_error(said):
    line = Inner.forward.__code__.co_firstlineno + 1
    text = said({})
    assert "Outer runs on one device and fails when it is sharded, KeyError: 'lost" in text
    assert "in module second, at " in text
    assert f"test_crashes.py:{line}, plan: no entry for this module" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        ({"second": "colwise", "first": "rowwise"}, "plan: second=colwise"),
        ({"second.weight": "colwise", "second_other": "rowwise"}, "plan: second.weight=colwise"),
        (dict.fromkeys((f"second.{i}" for i in range(6)), "x"), "second.3=x, and 2 more"),
    ],
)
def test_the_entries_of_the_module_are_named(said, plan, named):
    assert said(plan).endswith(named)
