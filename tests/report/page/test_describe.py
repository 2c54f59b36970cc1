"""What the page of a proof says: the answer first, its numbers in words, first causes, notes."""

import base64
import gzip

import pytest
from tests.report.page.shown import LOSS, RIGHT, WRONG, shown
from tests.report.proofs import finding

from shardproof.proving.findings import Verdict
from shardproof.report.page.describe import describe_proof
from shardproof.report.page.description import Tone


def test_a_failing_page_begins_with_the_answer_and_its_first_cause():
    page = describe_proof(shown(), subject="my step")
    assert (page.answer, page.tone) == ("Not proved", Tone.BAD)
    assert page.sentence == (
        "Split over 2 ranks, this is no longer the single-device step: one of 4 tensors goes wrong, and 1 more follow."
    )
    (cause,) = page.causes
    assert cause.cause == "Ranks hold partial values whose sum is right: an all-reduce is missing."
    assert cause.mend == "An all-reduce of the gradient over tp is missing in the backward."
    assert cause.href == "#t1"
    assert page.follows == "From that 1 more findings follow: 1 updated parameter."


def test_a_proved_page_says_so_in_numbers_and_words():
    page = describe_proof(shown(LOSS, RIGHT))
    assert (page.answer, page.tone, page.causes) == ("Proved", Tone.GOOD, ())
    facts = {fact.label: fact.value for fact in page.facts}
    assert facts == {
        "tensors agree": "2 of 2",
        "parameters are split": "1 of 2",
        "ranks": "2",
        "at most, the chance of a false 'proved'": "1 in 1 billion",
    }
    assert "29 coin tosses" in page.facts[-1].meaning


@pytest.mark.parametrize(
    ("verdict", "trials", "answer", "tone"),
    [
        (Verdict.UNDECIDED, 2, "Not proved", Tone.OPEN),
        (Verdict.ROUNDING, 0, "Within rounding", Tone.GOOD),
        (Verdict.WRONG, 0, "Not within rounding", Tone.BAD),
    ],
)
def test_other_answers_have_words_and_tones_of_their_own(verdict, trials, answer, tone):
    page = describe_proof(shown(finding(verdict=verdict, root=not verdict.ok), trials=trials))
    assert (page.answer, page.tone) == (answer, tone)
    assert ("Numbers alone prove nothing" in page.sentence) is (trials == 0)


def test_the_certificate_is_embedded_as_it_is():
    page = describe_proof(shown(), certificate='{"ok": false}')
    assert gzip.decompress(base64.b64decode(page.certificate)) == b'{"ok": false}'
    assert describe_proof(shown()).certificate == ""


def test_without_evidence_there_is_no_picture_and_all_else():
    page = describe_proof(shown(WRONG, evidence=None))
    assert page.picture is None
    assert page.sections
    assert page.plot is not None
