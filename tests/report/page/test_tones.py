"""Tones: every verdict and agreement has one, and every verdict a meaning."""

from dataclasses import replace

from tests.report.proofs import finding

from shardproof.proving.evidence import Agreement
from shardproof.proving.findings import Verdict
from shardproof.report.page.description import Tone
from shardproof.report.page.tones import MEANINGS, tone_of, tone_of_agreement, tone_of_verdict, worst


def test_every_verdict_has_a_tone_and_a_meaning_and_no_failure_is_good():
    assert set(MEANINGS) == set(Verdict)
    for verdict in Verdict:
        assert (tone_of_verdict(verdict) in (Tone.BAD, Tone.OPEN)) is not verdict.ok
    assert tone_of_verdict(Verdict.WRONG) is Tone.BAD


def test_every_agreement_has_a_tone():
    assert {tone_of_agreement(one) for one in Agreement} == set(Tone)


def test_what_is_allowed_is_neither_good_nor_bad():
    wrong = finding(verdict=Verdict.WRONG)
    assert tone_of(wrong) is Tone.BAD
    assert tone_of(replace(wrong, allowed="*")) is Tone.PLAIN


def test_the_worst_of_several():
    assert worst([Tone.GOOD, Tone.OPEN]) is Tone.OPEN
    assert worst([Tone.PLAIN, Tone.GOOD]) is Tone.GOOD
    assert worst([]) is Tone.PLAIN
