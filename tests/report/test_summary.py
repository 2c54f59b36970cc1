"""The summary as values: what every renderer says, and in which order."""

from tests.report.proofs import finding, proof

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Sharding, Verdict
from shardproof.proving.records import Phase
from shardproof.report.summary import summarize

WRONG = finding("up.weight", Verdict.WRONG, root=True, cause=Cause(kind=CauseKind.ZERO_EVERYWHERE))


def test_the_headline_counts_each_verdict():
    summary = summarize(proof(finding("a"), finding("b"), WRONG))
    assert (summary.ok, summary.headline) == (False, "NOT PROVED: 3 tensors: 2 PROVED, 1 WRONG")
    assert summarize(proof(finding("a"))).headline == "PROVED: 1 tensors: 1 PROVED"


def test_circumstances_are_what_is_split_the_ranks_and_the_probes():
    summary = summarize(proof(finding(), sharding=Sharding(parameters=5, split=4)))
    assert summary.circumstances == ("4 of 5 parameters split, 2 ranks, 2 trials, primes 101, 103", "Probed with: x.")
    assert summarize(proof(finding(), trials=0)).circumstances == ("2 ranks, numbers only, no exact arithmetic",)


def test_first_causes_and_what_follows_are_kept_apart():
    following = [finding(name, Verdict.WRONG, phase=Phase.UPDATE) for name in ("up.weight", "up.bias")]
    summary = summarize(proof(WRONG, *following, finding("ok")))
    assert [cause.group.title for cause in summary.causes] == ["step 1, gradient: up.weight"]
    assert [(one.title, one.verdict) for one in summary.follows] == [("step 1, updated parameter: 2", Verdict.WRONG)]


def test_what_is_allowed_is_no_cause_and_follows_from_none():
    allowed = finding("b", Verdict.VACUOUS, root=True, allowed="VACUOUS*")
    summary = summarize(proof(finding("a"), allowed, allow=("VACUOUS*", "other*")))
    assert (summary.causes, summary.follows) == ((), ())
    assert [(one.pattern, [group.title for group in one.groups]) for one in summary.allowed] == [
        ("VACUOUS*", ["step 1, gradient: b"])
    ]
    assert summary.unused == ("Nothing needs 'other*' any more: take it out of what is allowed.",)


def test_what_is_drawn_has_its_words():
    drawn = finding("drop", Verdict.DRAWN, phase=Phase.MASK, cause=Cause(kind=CauseKind.MASK_OWN))
    (said,) = summarize(proof(drawn)).drawn
    assert said.startswith("step 1, dropout mask: drop: the ranks' own mask")


def test_control_characters_of_names_are_escaped():
    summary = summarize(proof(finding("a\n::b", Verdict.WRONG, root=True, allowed=""), allow=("x\n",)))
    said = [summary.causes[0].group.title, *summary.unused, *summary.notes]
    assert not any("\n" in text for text in said)
