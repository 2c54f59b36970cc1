"""First causes in sentences: the cause, what would mend it, and details."""

from dataclasses import replace

from tests.report.proofs import NEAR, finding, proof

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Verdict
from shardproof.report.first_causes import list_first_causes, tell_cause

MISSING = Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("tp",), mend=Mend.ALL_REDUCE_GRADIENT)
WRONG = finding(verdict=Verdict.WRONG, cause=MISSING, root=True, differing=2, elements=4, ranks=(1,))


def test_a_cause_has_its_mend_and_its_details_in_that_order():
    (cause,) = list_first_causes(proof(replace(WRONG, source_line="a.py:3 in f")))
    assert cause.mend == "An all-reduce of the gradient over tp is missing in the backward."
    assert list(cause.sentences) == [
        "ranks hold partial values whose sum is right: an all-reduce is missing.",
        cause.mend,
        "Its module is called at a.py:3 in f.",
        "2 of 4 elements differ, on rank 1.",
    ]


def test_what_follows_and_what_is_allowed_is_no_first_cause():
    follows = finding("b", Verdict.WRONG)
    allowed = replace(WRONG, key=replace(WRONG.key, name="c"), allowed="*")
    assert [one.group.pattern for one in list_first_causes(proof(WRONG, follows, allowed))] == ["w"]
    assert list_first_causes(proof(finding())) == []


def test_a_difference_in_float64_is_told_beside_the_noise():
    (cause,) = list_first_causes(proof(replace(WRONG, rounding=NEAR)))
    assert "In float64 the largest difference is 1e-15, 1 times the noise." in cause.details


def test_control_characters_are_escaped():
    evil = Cause(kind=CauseKind.UNTIED, parameter="a\x1bb")
    assert tell_cause(replace(WRONG, cause=evil), {}) == (
        "tied to a\\x1bb on one device, and a parameter of its own here"
    )
    assert tell_cause(replace(WRONG, cause=None), {}) == ""
