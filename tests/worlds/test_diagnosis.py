"""What a set of statuses shows: different collectives, a wait for a rank that returned, a deadlock, or nothing."""

import pytest

from shardproof.worlds.diagnosis import (
    describe_mismatch,
    describe_waiting,
    describe_waits,
    diagnose_stall,
    is_message,
    name_ranks,
)
from shardproof.worlds.heartbeats import RankStatus


def status(entered, left, call="all_reduce 'x'"):
    return RankStatus(entered=entered, left=left, call=call, sent=(0, 0), received=(0, 0))


def in_message(kind, peer, *, sent=(0, 0), received=(0, 0)):
    return RankStatus(
        entered=1, left=1, call=f"{kind} 'h'", peer=peer, sends=kind == "send", sent=sent, received=received
    )


BUSY = RankStatus(entered=1, left=1, call="", sent=(0, 0), received=(0, 0))
SENT = RankStatus(entered=1, left=1, call="", sent=(0, 1), received=(0, 0))


@pytest.mark.parametrize(
    ("statuses", "returned", "expected"),
    [
        ([status(2, 2), status(2, 2)], [], None),  # both compute
        ([status(3, 2), status(2, 2)], [], None),  # one may still come
        ([status(3, 2), status(3, 2)], [], None),  # in the same collective: it is being carried out
        ([status(1, 0), status(1, 0)], [], None),  # neither has joined yet
        (
            [status(3, 2), status(3, 2, "all_gather 'y'")],
            [],
            "the ranks call different collectives: rank 0 calls all_reduce 'x', rank 1 calls all_gather 'y'",
        ),
        ([status(3, 2), status(4, 3, "all_gather 'y'")], [], None),  # not the same collective in order
        ([status(2, 2), status(3, 2)], [0], "rank 0 ended while rank 1 waits in all_reduce 'x'"),
        ([status(3, 3), status(3, 2)], [0], None),  # it took part before it ended
        ([in_message("send", 1), in_message("receive", 0)], [], None),  # the message is on its way
        ([in_message("send", 1), BUSY], [], None),  # the other may still come
        (
            [in_message("send", 1), in_message("send", 0)],
            [],
            "deadlock; rank 0 waits in send 'h'; rank 1 waits in send 'h'",
        ),
        ([BUSY, in_message("receive", 0)], [0], "deadlock; rank 1 waits in receive 'h'; rank 0 ended"),
        ([SENT, in_message("receive", 0)], [0], None),  # it has sent it before it ended
        (
            [SENT, in_message("receive", 0, received=(1, 0))],
            [0],
            "deadlock; rank 1 waits in receive 'h'; rank 0 ended",
        ),
        (
            [status(2, 1), in_message("receive", 0)],
            [],
            "deadlock; rank 0 waits in all_reduce 'x'; rank 1 waits in receive 'h'",
        ),
    ],
)
def test_diagnosis_of_statuses(statuses, returned, expected):
    assert diagnose_stall(statuses, returned) == expected


def test_one_rank_and_several_are_named_in_grammar():
    assert describe_waiting([3], "c") == "rank 3 waits in c"
    assert describe_waiting([1, 0], "c") == "ranks 0, 1 wait in c"
    assert describe_mismatch([0, 1], "c", 2, "d") == (
        "the ranks call different collectives: ranks 0, 1 call c, rank 2 calls d"
    )
    assert describe_waits({2: "c", 0: "c", 1: "d"}) == "ranks 0, 2 wait in c; rank 1 waits in d"
    assert name_ranks(range(9)) == "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 1 more"


def test_a_message_is_told_from_a_collective():
    assert is_message("send 'h' (float32 [2] to rank 1)")
    assert is_message("receive 'h' (float32 [2] from rank 0)")
    assert not is_message("all_reduce 'send ' (float32 [2])")
