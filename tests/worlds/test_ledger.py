"""The ledger's counts against PyTorch's CommDebugMode, and its bytes against counting by hand."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.worlds import counting
from torch.testing._internal.distributed.fake_pg import FakeStore

from shardproof.worlds.communicator import shard_range, shard_sizes
from shardproof.worlds.ledger import Entry, LedgeredCommunicator
from shardproof.worlds.processgroup import ProcessGroupCommunicator
from shardproof.worlds.simulated import SimulatedWorld
from shardproof.worlds.spawned import SpawnedWorld


@pytest.fixture(params=[1, 2, 5])
def fake_group(request):
    """A group whose other ranks are not there: collectives return at once, and are counted as any."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=request.param)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_ledger_counts_what_torch_counts(fake_group):
    entered, counted = counting.count_twice(ProcessGroupCommunicator(group=fake_group), 7, False)
    assert entered == counted
    expected = {"all_gather": 2, "reduce_scatter": 1, "all_reduce": 3}
    assert entered == (expected if fake_group.size() > 1 else {})


def test_a_collective_beside_the_ledger_is_noticed(fake_group):
    entered, counted = counting.count_twice(ProcessGroupCommunicator(group=fake_group), 7, True)
    assert (entered != counted) == (fake_group.size() > 1)


@pytest.mark.processes
def test_ledger_counts_what_torch_counts_between_processes():
    for entered, counted in SpawnedWorld(size=2).run(counting.count_twice, 7, False):
        assert entered == counted == {"all_gather": 2, "reduce_scatter": 1, "all_reduce": 3}


def run_step(comm):
    books = LedgeredCommunicator(inner=comm)
    counting.step(books, columns=7)
    return books.ledger


def test_entries_say_section_collective_tensor_and_bytes():
    ledgers = SimulatedWorld(size=3).run(run_step)
    norm = Entry(section="backward", collective="all_reduce", tensor="norm", bytes_per_rank=2 * (14 - 4) * 4)
    assert ledgers[0].entries == [
        # 7 columns over 3 ranks: the shortest shard has 2, so 5 columns of 2 rows come from elsewhere
        Entry(section="forward", collective="all_gather", tensor="hidden", bytes_per_rank=5 * 2 * 4),
        Entry(section="forward", collective="all_gather", tensor="output", bytes_per_rank=5 * 2 * 4),
        # 2 rows over 3 ranks: the shortest shard is empty, and all of both rows goes elsewhere
        Entry(section="backward", collective="reduce_scatter", tensor="gradient", bytes_per_rank=2 * 7 * 4),
        norm,
        norm,
        norm,
    ]
    assert ledgers[0].total_bytes_per_rank == 40 + 40 + 56 + 3 * 80
    assert ledgers[1] == ledgers[2] == ledgers[0]


def test_one_rank_communicates_nothing():
    assert SimulatedWorld(size=1).run(run_step)[0].entries == []


@settings(deadline=None)
@given(size=st.integers(2, 9), total=st.integers(1, 20), rows=st.integers(1, 3), dim=st.sampled_from([0, 1, -1, -2]))
def test_bytes_are_those_of_a_ring(size, total, rows, dim):
    shape = (total, rows) if dim in {0, -2} else (rows, total)

    def fn(comm):
        books = LedgeredCommunicator(inner=comm)
        start, stop = shard_range(total, comm.rank, size)
        whole = torch.ones(shape, dtype=torch.bfloat16)
        books.all_gather(whole.narrow(dim, start, stop - start), dim=dim, total=total, name="x")
        books.reduce_scatter(whole, dim=dim, name="x")
        books.all_reduce(whole, name="x")
        return [entry.bytes_per_rank for entry in books.ledger.entries]

    def busiest(length):
        # In N-1 rounds each rank passes on every shard but the one that its neighbour began with.
        sizes = shard_sizes(length, size)
        return max(sum(sizes) - sizes[(rank + 1) % size] for rank in range(size))

    expected = [busiest(total) * rows * 2, busiest(total) * rows * 2, 2 * busiest(total * rows) * 2]
    assert SimulatedWorld(size=size).run(fn)[0] == expected
