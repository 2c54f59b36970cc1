"""Point-to-point calls among threads and processes: the same bits, in order, and an end that names the calls."""

import pytest
import torch
from tests.worlds import p2p_code

from shardproof.errors import CannotRunError
from shardproof.exact import ExactArithmetic
from shardproof.worlds.messages import Mailbox, Receive, Send, fit
from shardproof.worlds.spawned import SpawnedWorld
from shardproof.worlds.threaded import ThreadedWorld

WORLDS = [ThreadedWorld, pytest.param(SpawnedWorld, marks=pytest.mark.processes)]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("size", [2, 3])
def test_a_ring_of_messages(world, size):
    for rank, (first, second, source) in enumerate(world(size=size).run(p2p_code.ring)):
        before = (rank - 1) % size
        assert torch.equal(first, p2p_code.value(before))
        assert torch.equal(second, p2p_code.value(before, 1))
        assert source == before


@pytest.mark.parametrize("world", WORLDS)
def test_a_batch_of_messages(world):
    for rank, (left, right) in enumerate(world(size=3).run(p2p_code.batch)):
        assert torch.equal(left, p2p_code.value((rank - 1) % 3))
        assert torch.equal(right, p2p_code.value((rank + 1) % 3, 1))


@pytest.mark.parametrize("world", WORLDS)
def test_messages_of_one_tag_arrive_in_order(world):
    assert world(size=2).run(p2p_code.in_order) == [None, [1.0, 3.0, 5.0, 0.0, 2.0, 4.0]]


@pytest.mark.parametrize("world", WORLDS)
def test_objects_and_any_source(world):
    assert world(size=2).run(p2p_code.objects) == [(1, 7.0), ["a", {"b": 2}]]


@pytest.mark.parametrize("world", WORLDS)
def test_ranks_of_a_subgroup(world):
    assert world(size=3).run(p2p_code.in_subgroup) == [None, None, (0, 3.0)]


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (
            p2p_code.both_receive,
            (
                "rank 0: deadlock; rank 0 waits in receive of float32 [2] from rank 1 (tag 0); "
                "rank 1 waits in receive of float32 [2] from rank 0 (tag 0)"
            ),
        ),
        (
            p2p_code.both_send,
            (
                "rank 0: deadlock; rank 0 waits in send of float32 [2] to rank 1 (tag 0); "
                "rank 1 waits in send of float32 [2] to rank 0 (tag 0)"
            ),
        ),
        (
            p2p_code.another_shape,
            (
                "rank 1: a message does not fit: rank 0 calls send of float32 [3] to rank 1 (tag 0), "
                "rank 1 calls receive of float32 [2, 2] from rank 0 (tag 0)"
            ),
        ),
        (
            p2p_code.another_dtype,
            (
                "rank 1: a message does not fit: rank 0 calls send of float32 [2] to rank 1 (tag 0), "
                "rank 1 calls receive of int32 [2] from rank 0 (tag 0)"
            ),
        ),
        (
            p2p_code.another_tag,
            (
                "rank 0: deadlock; rank 0 waits in send of float32 [2] to rank 1 (tag 4); "
                "rank 1 waits in receive of float32 [2] from rank 0 (tag 5)"
            ),
        ),
        (
            p2p_code.never_received,
            "the ranks ended, but nothing matches rank 0's send of float32 [2] to rank 1 (tag 0)",
        ),
        (
            p2p_code.never_sent,
            "the ranks ended, but nothing matches rank 1's receive of float32 [2] from rank 0 (tag 0)",
        ),
        (
            p2p_code.collective_and_message,
            (
                "rank 0: deadlock; rank 0 waits in AllReduce of float32 [2]; "
                "rank 1 waits in receive of float32 [2] from rank 0 (tag 0)"
            ),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_calls_that_do_not_match_are_named(fn, said):
    with pytest.raises(CannotRunError) as caught:
        ThreadedWorld(size=2).run(fn)
    assert str(caught.value) == said


@pytest.mark.processes
def test_a_deadlock_of_processes_names_the_line_of_each_rank():
    with pytest.raises(CannotRunError) as caught:
        SpawnedWorld(size=2, timeout=4).run(p2p_code.both_receive)
    assert "rank 0 is in " in str(caught.value)
    assert "rank 1 is in " in str(caught.value)
    assert str(caught.value).count("p2p_code.py:") == 2


def pass_on(comm, exact):
    with exact.joined():
        tensor = torch.full((2,), float(comm.rank + 1)) / 3
        got = torch.empty(2)
        works = [torch.distributed.isend(tensor, 1 - comm.rank), torch.distributed.irecv(got, 1 - comm.rank)]
        for work in works:
            work.wait()
        return exact.digits(got * 3).tolist()


def test_residues_are_passed_on():
    assert ThreadedWorld(size=2).run(pass_on, ExactArithmetic(seed=3)) == [[2, 2], [1, 1]]


@pytest.mark.parametrize(
    ("sent", "received", "fits"),
    [
        (torch.ones(2, 3), torch.ones(2, 3), True),
        (torch.ones(6), torch.ones(2, 3), True),
        (torch.ones(2, 3), torch.ones(6), True),
        (torch.ones(3, 2), torch.ones(2, 3), False),
        (torch.ones(5), torch.ones(2, 3), False),
        (torch.ones(2), torch.ones(2).double(), False),
    ],
)
def test_which_messages_fit(sent, received, fits):
    assert fit(sent, received) == fits


def test_a_receive_from_any_rank_takes_the_first_message_of_its_tag():
    mailbox = Mailbox()
    for source, tag in ((2, 9), (1, 0), (2, 0)):
        mailbox.send(Send(source=source, destination=0, tag=tag, tensor=torch.tensor([float(source)])))
    receive = Receive(source=None, destination=0, tag=0, tensor=torch.empty(1))
    mailbox.receive(receive)
    assert (receive.source, receive.value.item(), receive.done) == (1, 1.0, True)
    with pytest.raises(CannotRunError, match=r"nothing matches rank 2's send .* rank 2's send"):
        mailbox.check_empty()
