"""Findings that say the same of tensors whose names differ in numbers are one line; anything else is its own."""

from dataclasses import replace
from fractions import Fraction

import pytest

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.records import Key, Phase
from shardproof.report.grouping import group_findings

TWICE = Cause(kind=CauseKind.SCALED, factor=Fraction(2))


def finding(name="layers.0.w", **changes):
    return Finding(key=Key(0, Phase.GRADIENT, name), verdict=Verdict.WRONG, cause=TWICE, **changes)


def test_numbers_that_differ_become_a_star():
    names = ["layers.0.norm1.w", "layers.1.norm1.w", "layers.12.norm1.w"]
    (group,) = group_findings([finding(name) for name in names])
    assert (group.pattern, len(group.findings), group.first.key.name) == ("layers.*.norm1.w", 3, names[0])


def test_one_alone_keeps_its_numbers():
    (group,) = group_findings([finding("layers.0.w")])
    assert group.pattern == "layers.0.w"


@pytest.mark.parametrize(
    "other",
    [
        finding("layers.1.b"),
        replace(finding("layers.1.w"), key=Key(1, Phase.GRADIENT, "layers.1.w")),
        replace(finding("layers.1.w"), key=Key(0, Phase.UPDATE, "layers.1.w")),
        replace(finding("layers.1.w"), verdict=Verdict.UNDECIDED),
        replace(finding("layers.1.w"), cause=replace(TWICE, factor=Fraction(3))),
        replace(finding("layers.1.w"), cause=None),
    ],
)
def test_what_differs_in_anything_else_stays_apart(other):
    assert len(group_findings([finding(), other])) == 2
    assert len(group_findings([finding(), finding("layers.1.w")])) == 1


def test_groups_stand_in_the_order_of_their_first():
    groups = group_findings([finding("b.0"), finding("a.0"), finding("b.1")])
    assert [group.pattern for group in groups] == ["b.*", "a.0"]
