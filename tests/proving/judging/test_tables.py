"""Entries of a table of constants that belong to another part: found by value, and not where every entry is used."""

import pytest
import torch

from shardproof.proving.axes import Axes
from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.judging.alignment import Alignment
from shardproof.proving.judging.closeness import Exact, WithinNoise
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.tables import explain_tables
from shardproof.proving.records import Key, Phase, Records

SCORES = Key(0, Phase.INPUT, "attention/softmax")
TABLE = torch.arange(100, 124).view(6, 1, 4)  # of six positions
OTHER = torch.arange(200, 206)


def explain(parts, whole=TABLE, *, key=SCORES, module="attention", field=None):
    """Two ranks have these tables, beside another that is right."""
    state = {"w": torch.arange(1.0, 3).double()}
    alignment = Alignment(
        reference=Records(tables={module: [OTHER, whole]}),
        ranks=[Records(tables={module: [OTHER, *([] if part is None else [part])]}) for part in parts],
        layout=find_layout(state, {"w": {0: state["w"], 1: state["w"]}}),
        axes=Axes(sizes={"tp": 2}),
    )
    return explain_tables(alignment, key, None, field or Exact(2_097_143))


@pytest.mark.parametrize(
    ("rows", "ranges"),
    [
        (([0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2]), ((0, 2), (0, 2))),  # positions from 0 in each part, gathered
        (([0, 1, 2], [0, 1, 2]), ((0, 2), (0, 2))),  # the first part on both ranks
        (([0, 1, 2], [2, 3, 4]), ((0, 2), (2, 4))),  # one place off
        (([0, 1], [1, 2, 3, 4]), ((0, 1), (1, 4))),
    ],
)
def test_entries_of_another_part_are_told(rows, ranges):
    found = explain([TABLE[own] for own in rows])
    assert (found.kind, found.elements, found.ranges) == (CauseKind.OTHER_CONSTANTS, 6, ranges)
    assert (found.parameter, found.mend) == ("attention", Mend.COUNT_FROM_PART)


def test_along_the_last_dim_too():
    assert explain([TABLE[..., [0, 1]], TABLE[..., [0, 1]]]).ranges == ((0, 1), (0, 1))


@pytest.mark.parametrize(
    "rows",
    [
        ([0, 1, 2], [3, 4, 5]),
        ([0, 1, 4, 5], [2, 3]),  # zigzag: an order of the ranks' own
        ([3, 4, 5], [0, 1, 2]),  # every entry is on some rank: which belongs where, the table does not tell
        (range(6), range(6)),
        ([0, 1], [0, 1]),  # less than there is to share out
    ],
)
def test_where_every_entry_is_used_or_some_are_left_out_nothing_is_told(rows):
    assert explain([TABLE[list(own)] for own in rows]) is None


def test_entries_that_are_none_of_one_device_are_another_fault():
    assert explain([TABLE[:3], TABLE[:3] + 1]) is None


def test_entries_that_come_twice_do_not_tell_their_place():
    assert explain([torch.ones(3), torch.ones(3)], torch.ones(6)) is None


def test_ranks_with_other_tables_compute_something_else():
    assert explain([TABLE[:3], None]) is None
    assert explain([TABLE[:3], TABLE[:3].reshape(3, 4)]) is None


def test_the_table_is_one_of_the_wrong_module_in_the_first_step():
    moved = [TABLE[:3], TABLE[:3]]
    assert explain(moved, key=Key(0, Phase.OUTPUT, "attention")) is not None
    assert explain(moved, key=Key(0, Phase.OUTPUT, "mlp")) is None
    assert explain(moved, key=Key(1, Phase.OUTPUT, "attention")) is None
    assert explain(moved, key=Key(0, Phase.OUTPUT_GRADIENT, "attention")) is None
    assert explain(moved, field=WithinNoise(1e-6)) is None
