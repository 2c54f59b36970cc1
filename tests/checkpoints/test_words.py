"""Every kind has one plain line, whatever the names hold."""

import pytest

from shardproof.checkpoints.damage import Damage, Kind
from shardproof.checkpoints.words import describe_damage


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_one_line(kind):
    damage = Damage(kind=kind, dim=2, first=4, last=8, total=12, other="x\x1b[2J\ny", side="actual", text="t")
    told = describe_damage(damage)
    assert told
    assert "\n" not in told
    assert "\x1b" not in told


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dim": 0, "first": 4, "last": 8, "total": 12}, "rows 4 to 7 are zero, the others are equal; shard 1 of 3"),
        ({"dim": 1, "first": 4, "last": 5, "total": 12}, "column 4 is zero, the others are equal; shard 4 of 12"),
        (
            {"dim": 2, "first": 4, "last": 9, "total": 12},
            "indexes of dim 2 4 to 8 are zero, the others are equal; a shard",
        ),
    ],
)
def test_parts_are_told_as_rows_columns_or_indexes(fields, words):
    assert words in describe_damage(Damage(kind=Kind.SHARD_ZERO, **fields))
