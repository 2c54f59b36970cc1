"""Ranks that are threads: each has a `torch.distributed` of its own, and what keeps them from going on is said."""

import traceback

import pytest
import torch
import torch.distributed as dist

from shardproof.errors import CannotRunError
from shardproof.worlds.thread_group import is_thread_of_world
from shardproof.worlds.threaded import ThreadedWorld


def run(fn, size=3):
    return ThreadedWorld(size=size).run(lambda _comm: fn())


def test_each_rank_has_its_own_number_and_results_come_in_their_order():
    assert run(lambda: (dist.get_rank(), dist.get_world_size())) == [(0, 3), (1, 3), (2, 3)]


def test_a_collective_has_every_ranks_tensor():
    def total():
        tensor = torch.tensor([float(dist.get_rank()), 1.0])
        dist.all_reduce(tensor)
        return tensor.tolist()

    assert run(total) == [[3.0, 3.0]] * 3


def test_a_thread_knows_that_it_is_a_rank_and_the_caller_is_none():
    assert not is_thread_of_world()
    assert run(is_thread_of_world) == [True] * 3
    assert not is_thread_of_world()
    assert not dist.is_initialized()


def test_what_one_rank_raises_is_said_with_its_number():
    def fail():
        if dist.get_rank() == 1:
            raise OverflowError("too much")
        dist.all_reduce(torch.ones(2))

    with pytest.raises(CannotRunError, match="rank 1: OverflowError: too much") as caught:
        run(fail)
    whole = "".join(traceback.format_exception(caught.value))  # what happened there stays with it
    assert 'raise OverflowError("too much")' in whole
    assert "in _run_rank" in whole


def test_ranks_in_different_collectives_are_told_apart():
    def differ():
        dist.all_reduce(torch.ones(2 if dist.get_rank() else 3))

    with pytest.raises(
        CannotRunError, match=r"the ranks are in different collectives: rank 0 is in AllReduce of .*\[3\]"
    ):
        run(differ, size=2)


def test_a_rank_that_ends_before_the_others_collective_is_no_endless_wait():
    def leave():
        if dist.get_rank() == 0:
            dist.all_reduce(torch.ones(2))

    with pytest.raises(CannotRunError, match="AllReduce"):
        run(leave, size=2)


def test_the_next_run_is_untouched_by_one_that_failed():
    with pytest.raises(CannotRunError):
        run(lambda: 1 // 0)
    assert run(dist.get_rank) == [0, 1, 2]


@pytest.mark.parametrize("size", [0, -1])
def test_a_world_of_no_ranks_is_refused(size):
    with pytest.raises(CannotRunError, match=f"a world of {size} ranks was asked for; give at least 1"):
        ThreadedWorld(size=size)


def test_a_process_that_has_a_group_already_is_refused(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    with pytest.raises(CannotRunError, match=r"torch\.distributed is already initialised in this process"):
        run(lambda: None)
