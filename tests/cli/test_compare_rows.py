"""The rows of a comparison of two files, which stand in memory here."""

from dataclasses import dataclass

import pytest
import torch

from shardproof.cli import compare
from shardproof.cli.compare_rows import Kernel, Row, Settings, compare_files, count_rows
from shardproof.cli.output import Exit
from shardproof.errors import CannotRunError

SETTINGS = Settings(rtol=None, atol=None, equal_nan=False, kernel=Kernel.eager)


@dataclass
class Entry:
    name: str


class File:
    """A tensor file in memory; a tensor that is None cannot be read."""

    def __init__(self, **tensors):
        self.tensors = tensors
        self.entries = [Entry(name) for name in tensors]

    def read(self, name):
        if self.tensors[name] is None:
            raise CannotRunError(f"{name} cannot be read")
        return self.tensors[name]


def tensor(*values):
    return torch.tensor(values)


def statuses(rows):
    return {row.name: row.status for row in rows}


def test_rows_have_the_order_of_the_expected_file_and_then_what_is_extra():
    rows = compare_files(
        File(x=tensor(1.0), b=tensor(1.0), a=tensor(1.0)), File(b=tensor(1.0), m=tensor(1.0)), SETTINGS
    )
    assert [row.name for row in rows] == ["b", "m", "x", "a"]
    assert statuses(rows) == {"b": "passed", "m": "failed", "x": "failed", "a": "failed"}
    assert [row.reason for row in rows][1:3] == ["missing: only expected has it", "extra: only actual has it"]


def test_each_outcome_has_its_status():
    actual = File(same=tensor(1.0), near=tensor(1.0), far=tensor(1.0), empty=torch.empty(0), shape=tensor(1.0, 1.0))
    expected = File(same=tensor(1.0), near=tensor(1.0 + 1e-6), far=tensor(2.0), empty=torch.empty(0), shape=tensor(1.0))
    rows = compare_files(actual, expected, SETTINGS)
    assert statuses(rows) == {
        "same": "passed",
        "near": "passed",
        "far": "failed",
        "empty": "skipped",
        "shape": "failed",
    }
    assert count_rows(rows) == {"passed": 2, "failed": 2, "skipped": 1, "total": 5}


def test_the_tolerances_reach_the_comparison():
    files = File(w=tensor(1.0, float("nan"))), File(w=tensor(1.5, float("nan")))
    assert statuses(compare_files(*files, SETTINGS)) == {"w": "failed"}
    loose = Settings(rtol=0.0, atol=0.5, equal_nan=True, kernel=Kernel.eager)
    assert statuses(compare_files(*files, loose)) == {"w": "passed"}
    tight = Settings(rtol=0.0, atol=0.4, equal_nan=True, kernel=Kernel.eager)
    assert statuses(compare_files(*files, tight)) == {"w": "failed"}


@pytest.mark.parametrize("side", [0, 1])
def test_a_tensor_that_cannot_be_read_is_skipped_and_said_to_be_unreadable(side):
    files = [File(w=tensor(1.0)), File(w=tensor(1.0))]
    files[side].tensors["w"] = None
    (row,) = compare_files(*files, SETTINGS)
    assert (row.status, row.unreadable, row.reason) == ("skipped", True, "not compared: w cannot be read")


def row(status, *, unreadable=False):
    return Row(name="w", status=status, comparison=None, reason="", unreadable=unreadable)


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([row("passed")], Exit.PASSED),
        ([row("passed"), row("skipped")], Exit.PASSED),
        ([row("passed"), row("failed")], Exit.DIVERGED),
        ([row("failed"), row("skipped", unreadable=True)], Exit.DIVERGED),
        ([row("passed"), row("skipped", unreadable=True)], Exit.COULD_NOT_RUN),
        ([row("skipped")], Exit.COULD_NOT_RUN),
        ([], Exit.COULD_NOT_RUN),
    ],
)
def test_nothing_compared_and_something_unreadable_are_never_a_pass(rows, code):
    assert compare._exit_code(rows) is code
