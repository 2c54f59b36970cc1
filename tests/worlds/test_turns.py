"""Turns: one rank at a time, in rank order, and an end that names what each waits in."""

import threading

import pytest

from shardproof.errors import CannotRunError
from shardproof.worlds.turns import Turns


def run(size, fn):
    """`fn(turns, rank)` on a thread a rank."""
    turns = Turns(size=size)

    def live(rank):
        error = None
        try:
            turns.begin(rank)
            fn(turns, rank)
        except BaseException as caught:  # noqa: BLE001
            error = caught
        turns.end(rank, error)

    threads = [threading.Thread(target=live, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    turns.watch(threads, 30)
    turns.leave_process_as_it_was()
    turns.report()


def test_ranks_run_in_rank_order_until_they_wait():
    order, arrived = [], set()

    def fn(turns, rank):
        order.append(("before", rank))
        arrived.add(rank)
        turns.wait_until(rank, lambda: len(arrived) == 3, "meeting")
        order.append(("after", rank))

    run(3, fn)
    assert order == [("before", 0), ("before", 1), ("before", 2), ("after", 2), ("after", 0), ("after", 1)]


def test_a_rank_that_gives_way_runs_again():
    order = []

    def fn(turns, rank):
        for _ in range(2):
            order.append(rank)
            turns.give_way(rank, "polling")

    run(2, fn)
    assert order == [0, 1, 0, 1]


def test_a_deadlock_names_what_each_waits_in_and_who_ended():
    def fn(turns, rank):
        if rank != 1:
            turns.wait_until(rank, lambda: False, f"call {rank}")

    with pytest.raises(CannotRunError) as caught:
        run(3, fn)
    assert str(caught.value) == "rank 0: deadlock; rank 0 waits in call 0; rank 2 waits in call 2; rank 1 ended"


def test_an_error_ends_the_others():
    unwound = []

    def fn(turns, rank):
        try:
            if rank == 1:
                raise OverflowError("too much")
            turns.wait_until(rank, lambda: False, "for ever")
        finally:
            unwound.append(rank)

    with pytest.raises(CannotRunError, match=r"^rank 1: OverflowError: too much \("):
        run(3, fn)
    assert sorted(unwound) in ([0, 1], [0, 1, 2])
