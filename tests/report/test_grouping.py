"""Findings that say the same of tensors whose names differ in numbers are one line; anything else is its own."""

from dataclasses import replace
from fractions import Fraction

import pytest

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.records import Key, Phase
from shardproof.report.grouping import group_findings, merge_groups

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


def test_groups_that_say_the_same_are_merged_under_their_patterns():
    names = ["layers.0.w", "head.w", "layers.1.w", "norm.w", "norm.b"]
    (group,) = merge_groups(group_findings([finding(name) for name in names]))
    assert group.pattern == "layers.*.w, head.w, norm.w and 1 more"
    assert (group.patterns, len(group.findings), group.first.key.name) == (4, 5, "layers.0.w")
    other = replace(finding("norm.w"), cause=replace(TWICE, factor=Fraction(3)))
    groups = merge_groups(group_findings([finding("head.w"), other, finding("tail.w")]))
    assert [(one.pattern, one.patterns) for one in groups] == [("head.w, tail.w", 2), ("norm.w", 1)]


def test_differences_that_nothing_explains_are_merged_wherever_they_are():
    places = [Cause(kind=CauseKind.UNEXPLAINED, ranks=ranks) for ranks in ((0,), (0, 1))]
    found = [replace(finding(name), cause=cause) for name, cause in zip(("a.w", "b.w"), places, strict=True)]
    assert [group.patterns for group in merge_groups(group_findings(found))] == [2]


def test_groups_stand_in_the_order_of_their_first():
    groups = group_findings([finding("b.0"), finding("a.0"), finding("b.1")])
    assert [group.pattern for group in groups] == ["b.*", "a.0"]
