"""The answer and the ranks in a few words."""

import pytest
from tests.report.proofs import finding, proof

from shardproof.proving.findings import Verdict
from shardproof.report.headline import describe_ranks, name_answer


@pytest.mark.parametrize(
    ("verdict", "trials", "answer"),
    [
        (Verdict.PROVED, 1, "PROVED"),
        (Verdict.WRONG, 1, "NOT PROVED"),
        (Verdict.ROUNDING, 0, "WITHIN ROUNDING, NOT PROVED"),
        (Verdict.UNDECIDED, 0, "NOT WITHIN ROUNDING"),
    ],
)
def test_numbers_are_never_called_a_proof(verdict, trials, answer):
    assert name_answer(proof(finding(verdict=verdict), trials=trials)) == answer


def test_axes_are_named_where_there_are_several():
    assert describe_ranks(proof(finding())) == "2 ranks"
    assert describe_ranks(proof(finding(), mesh={"tp": 1})) == "1 rank"
    assert describe_ranks(proof(finding(), mesh={"dp": 2, "tp": 2})) == "4 ranks (dp 2 x tp 2)"
