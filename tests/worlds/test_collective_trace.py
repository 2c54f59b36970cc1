"""Which collectives a rank takes part in: those of a thread's world, and those of a process group."""

import pytest
import torch
import torch.distributed as dist

from shardproof.worlds.collective_trace import TracedCollective, trace_collectives
from shardproof.worlds.spawned import SpawnedWorld
from shardproof.worlds.threaded import ThreadedWorld


def traced(fn):
    found = []
    with trace_collectives(found.append):
        fn()
    return found


def collectives():
    dist.all_reduce(torch.ones(2, 3))
    dist.all_reduce(torch.ones(4), op=dist.ReduceOp.MAX)


def test_a_thread_traces_its_own_collectives_in_their_order():
    for found in ThreadedWorld(size=2).run(lambda _comm: traced(collectives)):
        assert found == [
            TracedCollective(kind="AllReduce SUM", ranks=(0, 1), shapes=((2, 3),)),
            TracedCollective(kind="AllReduce MAX", ranks=(0, 1), shapes=((4,),)),
        ]


def test_a_group_of_some_ranks_is_traced_with_their_global_numbers():
    def reduce_in_pairs(_comm):
        groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
        return traced(lambda: dist.all_reduce(torch.ones(1), group=groups[dist.get_rank() // 2]))

    ranks = [found[-1].ranks for found in ThreadedWorld(size=4).run(reduce_in_pairs)]
    assert ranks == [(0, 1), (0, 1), (2, 3), (2, 3)]


def test_what_is_done_outside_is_not_traced():
    def outside(_comm):
        found = traced(lambda: None)
        dist.all_reduce(torch.ones(1))
        return found

    assert ThreadedWorld(size=2).run(outside) == [[], []]


@pytest.fixture
def alone():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_process_traces_its_collectives_and_no_barrier():
    assert traced(lambda: (dist.barrier(), collectives())) == [
        TracedCollective(kind="allreduce_ SUM", ranks=(0,), shapes=((2, 3),)),
        TracedCollective(kind="allreduce_ MAX", ranks=(0,), shapes=((4,),)),
    ]


@pytest.mark.usefixtures("alone")
def test_ops_that_are_no_collectives_are_not_traced():
    assert traced(lambda: torch.ones(2) + torch.ones(2)) == []


def in_two_dtypes():
    dist.all_reduce(torch.ones(2, dtype=torch.bfloat16))
    dist.all_gather([torch.ones(1, dtype=torch.int64) for _ in range(dist.get_world_size())], torch.ones(1).long())


def test_a_collective_has_the_dtype_of_its_tensors_in_a_thread():
    for found in ThreadedWorld(size=2).run(lambda _comm: traced(in_two_dtypes)):
        assert [one.dtype for one in found] == ["bfloat16", "int64"]


@pytest.mark.usefixtures("alone")
def test_a_collective_has_the_dtype_of_its_tensors_in_a_process():
    assert [one.dtype for one in traced(in_two_dtypes)] == ["bfloat16", "int64"]


def of_every_kind(comm):
    """Of a program that calls asynchronous and synchronous collectives: what is traced beside kind and shapes."""

    def calls():
        dist.all_reduce(torch.ones(2, dtype=torch.bfloat16))
        dist.all_reduce(torch.ones(2, dtype=torch.float64), async_op=True).wait()
        dist.broadcast(torch.ones(3, dtype=torch.int32), 0, async_op=True).wait()
        if comm.rank:
            dist.recv(torch.ones(2), 0)
        else:
            dist.send(torch.ones(2), 1)

    return [(one.dtype, one.asynchronous) for one in traced(calls)]


@pytest.mark.parametrize("world", [ThreadedWorld, pytest.param(SpawnedWorld, marks=pytest.mark.processes)])
def test_dtypes_and_asynchronous_calls_are_traced(world):
    expected = [("bfloat16", False), ("float64", True), ("int32", True), ("float32", False)]
    assert world(size=2).run(of_every_kind) == [expected] * 2
