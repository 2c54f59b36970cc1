"""Early accesses on record -> one finding for each, WRONG and a first cause, with the lines in its words."""

from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.early_access import conclude_early_accesses
from shardproof.proving.records import Phase, Records
from shardproof.report.words import describe_cause, describe_mend
from shardproof.worlds.early_access import EarlyAccess

USED = EarlyAccess(
    call="AllReduce of float32 [3]", call_line="a.py:3 in f", access="mul", access_line="a.py:5 in f", of_input=False
)
CHANGED = EarlyAccess(call="send of float32 [3]", call_line="a.py:8 in g", access="", access_line="", of_input=True)


def test_one_finding_for_an_access_on_several_ranks_steps_and_runs():
    ranks = [Records(early_accesses=[(1, USED), (2, USED)]), Records(early_accesses=[(1, USED), (1, CHANGED)])]
    first, second = conclude_early_accesses([ranks, ranks])
    assert (first.verdict, first.root, first.ranks, first.key.step) == (Verdict.WRONG, True, (0, 1), 1)
    assert (first.key.phase, first.key.name) == (Phase.COLLECTIVES, "AllReduce of float32 [3]")
    assert (first.cause.kind, first.cause.early_access) == (CauseKind.USED_BEFORE_WAIT, USED)
    assert (second.cause.kind, second.ranks) == (CauseKind.CHANGED_BEFORE_WAIT, (1,))


def test_no_access_no_finding():
    assert conclude_early_accesses([[Records(), Records()]]) == ()


def test_the_words_have_both_lines():
    first, second = conclude_early_accesses([[Records(early_accesses=[(0, USED), (0, CHANGED)])]])
    assert describe_cause(first.cause) == (
        "the result of the asynchronous AllReduce of float32 [3] at a.py:3 in f is used by mul at a.py:5 in f "
        "before it is waited for"
    )
    assert describe_cause(second.cause) == (
        "an input of the asynchronous send of float32 [3] at a.py:8 in g is changed before it is waited for"
    )
    assert describe_mend(first.cause) == "Call wait() on what the asynchronous call returned, first."
