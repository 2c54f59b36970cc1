"""Branches are listed by their lines, and one way of a comparison is another one than the other way."""

from shardproof.exact.algebra.number_branches import NumberBranch


def test_they_are_listed_by_line_and_told_apart_by_way_and_by_what_decided():
    ways = [
        NumberBranch(line=line, holds=holds, limited=limited)
        for line in ("a.py:1 in f", "b.py:1 in f")
        for holds in (False, True)
        for limited in (False, True)
    ]
    assert sorted(set(ways)) == ways
    assert len(set(ways)) == len(ways)
