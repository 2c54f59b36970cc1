"""Shards of a length cover it; messages are the same in every world, and an end names the calls that do not match."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.worlds import message_code

from shardproof.errors import CannotRunError
from shardproof.worlds.communicator import shard_range, shard_sizes
from shardproof.worlds.ledger import Message
from shardproof.worlds.simulated import SimulatedWorld
from shardproof.worlds.spawned import SpawnedWorld
from shardproof.worlds.threaded import ThreadedWorld

PROCESSES = pytest.param(SpawnedWorld, marks=pytest.mark.processes)
WORLDS = [SimulatedWorld, ThreadedWorld, PROCESSES]


@given(total=st.integers(0, 200), size=st.integers(1, 17))
def test_ranges_are_the_sizes_laid_end_to_end(total, size):
    sizes = shard_sizes(total, size)
    assert sum(sizes) == total
    assert max(sizes) - min(sizes) <= 1
    assert list(sizes) == sorted(sizes, reverse=True)
    start = 0
    for rank, length in enumerate(sizes):
        assert shard_range(total, rank, size) == (start, start + length)
        start += length


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("size", [2, 3])
def test_a_ring_of_messages(world, size):
    for rank, (first, second) in enumerate(world(size=size).run(message_code.pass_round)):
        before = (rank - 1) % size
        assert torch.equal(first, message_code.value(before))
        assert torch.equal(second, message_code.value(before, 1).T.bfloat16())


@pytest.mark.parametrize("world", WORLDS)
def test_messages_arrive_in_order(world):
    assert world(size=2).run(message_code.keep_order) == [None, [0, 1, 2, 3, 4]]


def test_a_sum_is_in_rank_order_whatever_the_order_of_arrival():
    parts = [torch.tensor([0.1, 1e8, -1e8, 0.3]).roll(rank) for rank in range(4)]
    expected = parts[0] + parts[1] + parts[2] + parts[3]
    assert not torch.equal(expected, parts[0] + parts[3] + parts[2] + parts[1])  # the order of arrival shows
    for found in SimulatedWorld(size=4).run(message_code.pipeline_with_a_sum):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("world", WORLDS)
def test_the_ledger_counts_messages(world):
    forward = Message(section="5.1", tensor="h", source=0, destination=1, bytes=24)
    sent, received = world(size=2).run(message_code.keep_books)
    assert (sent.sent, received.received) == ([forward], [forward])
    assert [(one.section, one.bytes) for one in (*sent.received, *received.sent)] == [("5.1", 24), ("5.2", 24)]
    assert sent.total_bytes_per_rank == received.total_bytes_per_rank == 24
    assert sent.entries == []


H, WAITS = "(float32 [2] {} rank {})", "deadlock; rank 0 waits in {} 'h' {}; rank 1 waits in {} 'h' {}"


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (message_code.both_send, WAITS.format("send", H.format("to", 1), "send", H.format("to", 0))),
        (message_code.both_receive, WAITS.format("receive", H.format("from", 1), "receive", H.format("from", 0))),
        (message_code.never_received, "deadlock; rank 0 waits in send 'h' (float32 [2] to rank 1); rank 1 ended"),
        (message_code.never_sent, "deadlock; rank 1 waits in receive 'h' (float32 [2] from rank 0); rank 0 ended"),
        (
            message_code.sum_and_message,
            (
                "deadlock; rank 0 waits in all_reduce 'norm' (float32 [2]); "
                "rank 1 waits in receive 'h' (float32 [2] from rank 0)"
            ),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_calls_that_do_not_match_are_named(world, fn, said):
    if world is ThreadedWorld:
        pytest.skip("it names the calls of torch.distributed: tests/worlds/test_messages.py")
    with pytest.raises(CannotRunError) as caught:
        world(size=2).run(fn)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("world", "name", "shape", "dtype"),
    [
        *(
            (world, *given)
            for world in (SimulatedWorld, ThreadedWorld)
            for given in (("g", (2, 3), "float32"), ("h", (6,), "float32"), ("h", (2, 2), "float32"))
        ),
        (SimulatedWorld, "h", (2, 3), "int32"),
        pytest.param(SpawnedWorld, "h", (2, 3), "int32", marks=pytest.mark.processes),  # gloo would hand over the bytes
    ],
)
def test_a_message_that_does_not_fit_is_named_with_both_calls(world, name, shape, dtype):
    with pytest.raises(CannotRunError) as caught:
        world(size=2).run(message_code.another, name, shape, dtype)
    assert (
        "a message does not fit: rank 0 calls send 'h' (float32 [2, 3] to rank 1), "
        f"rank 1 calls receive '{name}' ({dtype} {list(shape)} from rank 0)" in str(caught.value)
    )


@pytest.mark.parametrize("world", [SimulatedWorld, PROCESSES])
def test_a_rank_that_raises_is_named_with_those_that_wait_for_its_message(world):
    with pytest.raises(CannotRunError) as caught:
        world(size=2).run(message_code.raise_before_sending)
    assert str(caught.value).startswith("rank 0: OverflowError: too much")


def test_no_rank_sends_to_itself_or_to_nobody():
    for peer in (0, 2, -1):
        with pytest.raises(CannotRunError, match=r"rank 0 of 2 has no message with rank -?\d: give another rank"):
            SimulatedWorld(size=2).run(lambda comm, peer=peer: comm.send(torch.ones(1), to=peer, name="h"))
        with pytest.raises(CannotRunError, match=r"receive 'h': rank 0 of 2 has no message"):
            SimulatedWorld(size=2).run(lambda comm, peer=peer: comm.receive(torch.ones(1), source=peer, name="h"))
