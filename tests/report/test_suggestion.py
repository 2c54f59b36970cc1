"""A suggestion in words: the options to give, and what the proof says with them."""

from tests.report.proofs import finding, proof

from shardproof.frameworks.transformers import Suggestion
from shardproof.report.suggestion import describe_suggestion


def lines(**fields):
    return list(describe_suggestion(Suggestion(**fields)))


def test_one_entry():
    told = lines(entries={"layers.*.q_norm": "replicate"}, proof=proof(finding()), tried=1)
    assert told == [
        "Suggestion: an entry put into the plan, found in 1 try:",
        "  --plan-set 'layers.*.q_norm=replicate'",
        "The same proof with it: PROVED: 1 tensors: 1 PROVED",
    ]


def test_several_entries():
    told = lines(entries={"a": "replicate", "b\x1b": "colwise"}, proof=proof(finding()), tried=3)
    assert told[0] == "Suggestion: entries put into the plan, found in 3 tries:"
    assert told[1] == "  --plan-set a=replicate"
    assert "\x1b" not in told[2]
    assert told[3].startswith("The same proof with them: ")


def test_nothing_found():
    assert lines(tried=24) == ["Suggestion: no single entry found of 24 tried."]
