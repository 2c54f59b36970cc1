"""What ranks write into the store when they fail, and what rank 0 makes of it."""

import signal
import threading

import pytest
from torch.distributed import HashStore

from shardproof.worlds.failure_store import (
    TerminatedError,
    collect_failures,
    raise_when_terminated,
    store_call,
    store_error,
)


@pytest.fixture(autouse=True)
def sigterm_restored():
    """A process that reports a failure ignores SIGTERM until its end; the test process must not."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_errors_are_reported_before_anything_else():
    store = HashStore()
    store_error(store, 2, "rank 2: ValueError: bad")
    assert collect_failures(store, 3, "all_reduce 'x'") == "rank 2: ValueError: bad"


def test_a_rank_in_another_collective_is_named():
    store = HashStore()
    writer = threading.Thread(target=store_call, args=(store, 1, "all_gather 'y'"))
    writer.start()  # it waits until rank 0 has reported
    message = collect_failures(store, 2, "all_reduce 'x'")
    writer.join()
    assert message == ("the ranks call different collectives: rank 0 calls all_reduce 'x', rank 1 calls all_gather 'y'")


def test_ranks_of_a_pipeline_that_wait_in_messages_are_a_deadlock_or_one_has_died():
    receive, send = "receive 'h' (float32 [2] from rank 1)", "send 'g' (float32 [2] to rank 0)"
    store = HashStore()
    writer = threading.Thread(target=store_call, args=(store, 1, send))
    writer.start()
    message = collect_failures(store, 2, receive)
    writer.join()
    assert message == f"deadlock; rank 0 waits in {receive}; rank 1 waits in {send}"
    store = HashStore()
    store.set("shardproof/call/1", send)
    assert collect_failures(store, 3, receive) == "rank 2 died or hung without reporting an error"


def test_ranks_that_wrote_nothing_are_dead_or_hung():
    assert collect_failures(HashStore(), 3, "all_reduce 'x'") == ("ranks 1, 2 died or hung without reporting an error")


def test_sigterm_is_raised_once_and_the_handler_restored():
    before = signal.getsignal(signal.SIGTERM)
    with raise_when_terminated():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(TerminatedError), raise_when_terminated():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
