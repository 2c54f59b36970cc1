"""Counts, and the lines of a comparison."""

import pytest
import torch

from shardproof.checkpoints.rows import CheckpointComparison, Row
from shardproof.comparison import compare


def row(status, *, unreadable=False, name="w", comparison=None, reason=None):
    return Row(name=name, status=status, comparison=comparison, reason=reason, unreadable=unreadable)


def of(*rows):
    return CheckpointComparison(rows=rows)


@pytest.mark.parametrize(
    ("compared", "equal"),
    [
        (of(row("passed")), True),
        (of(row("passed"), row("skipped")), True),
        (of(row("passed"), row("failed")), False),
        (of(row("passed"), row("skipped", unreadable=True)), False),
        (of(row("skipped")), False),
        (of(), False),
    ],
)
def test_nothing_compared_and_something_unreadable_are_never_equal(compared, equal):
    assert compared.equal is equal


def test_the_lines_say_what_is_wrong_and_only_failed_leaves_out_the_rest():
    same = compare(torch.ones(2), torch.ones(2), name="same")
    far = compare(torch.ones(2), torch.zeros(2), name="far")
    compared = of(
        row("passed", name="same", comparison=same),
        row("failed", name="far", comparison=far, reason="in words"),
        row("skipped", name="odd\x1b[2J", reason="not compared: x", unreadable=True),
    )
    lines = compared.describe().splitlines()
    assert [line.split(" | ")[0].strip() for line in lines[:2]] == ["same", "far"]
    assert lines[2:] == [
        "    in words",
        "odd\\x1b[2J      | not compared: x",
        "1 passed (1 exact) + 1 failed + 1 skipped = 3 tensors",
    ]
    assert str(compared).splitlines() == lines[1:]
