"""Every collective of torch.distributed among threads, against its definition, and calls that do not match."""

import pytest
import torch
import torch.distributed as dist

from shardproof.errors import CannotRunError
from shardproof.worlds.threaded import ThreadedWorld

SIZE = 3


def given(rank, length=SIZE):
    return torch.arange(float(length)) + 10 * rank


def every_collective(comm):
    rank, size = comm.rank, comm.size
    found = {}
    found["all_reduce"] = given(rank)
    dist.all_reduce(found["all_reduce"])
    found["broadcast"] = given(rank)
    dist.broadcast(found["broadcast"], 1)
    found["reduce"] = given(rank)
    dist.reduce(found["reduce"], 2, op=dist.ReduceOp.MAX)
    gathered = [torch.empty(SIZE) for _ in range(size)]
    dist.all_gather(gathered, given(rank))
    found["all_gather"] = torch.stack(gathered)
    found["all_gather_single"] = torch.empty(size * SIZE)
    dist.all_gather_single(found["all_gather_single"], given(rank))
    found["reduce_scatter"] = torch.empty(1)
    dist.reduce_scatter(found["reduce_scatter"], list(given(rank).split(1)))
    swapped = [torch.empty(1) for _ in range(size)]
    dist.all_to_all(swapped, list(given(rank).split(1)))
    found["all_to_all"] = torch.cat(swapped)
    # rank r sends r elements to each other rank and to itself
    found["all_to_all_single"] = torch.empty(sum(range(size)))
    sent = given(rank, size * rank)
    dist.all_to_all_single(found["all_to_all_single"], sent, list(range(size)), [rank] * size)
    onto_0 = [torch.empty(SIZE) for _ in range(size)] if rank == 0 else None
    dist.gather(given(rank), onto_0)
    found["gather"] = torch.stack(onto_0) if rank == 0 else None
    found["scatter"] = torch.empty(1)
    dist.scatter(found["scatter"], list(given(rank).split(1)) if rank == 1 else None, 1)
    objects = [None] * size
    dist.all_gather_object(objects, {"rank": rank})
    found["objects"] = objects
    with dist._coalescing_manager():
        found["coalesced"] = [given(rank), given(rank) * 2]
        for one in found["coalesced"]:
            dist.all_reduce(one)
    return found


def test_every_collective_is_what_it_says():
    all_given = torch.stack([given(rank) for rank in range(SIZE)])
    for rank, found in enumerate(ThreadedWorld(size=SIZE).run(every_collective)):
        assert torch.equal(found["all_reduce"], all_given.sum(0))
        assert torch.equal(found["broadcast"], all_given[1])
        assert torch.equal(found["reduce"], all_given.amax(0) if rank == 2 else all_given[rank])
        assert torch.equal(found["all_gather"], all_given)
        assert torch.equal(found["all_gather_single"], all_given.flatten())
        assert torch.equal(found["reduce_scatter"], all_given.sum(0)[rank : rank + 1])
        assert torch.equal(found["all_to_all"], all_given[:, rank])
        pieces = [given(source, SIZE * source)[rank * source : (rank + 1) * source] for source in range(SIZE)]
        assert torch.equal(found["all_to_all_single"], torch.cat(pieces))
        assert rank or torch.equal(found["gather"], all_given)
        assert torch.equal(found["scatter"], all_given[1, rank : rank + 1])
        assert found["objects"] == [{"rank": other} for other in range(SIZE)]
        assert torch.equal(found["coalesced"][0], all_given.sum(0))
        assert torch.equal(found["coalesced"][1], 2 * all_given.sum(0))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_groups_of_some_ranks_do_not_wait_for_the_others(size):
    def fn(comm):
        groups = [dist.new_group([rank]) for rank in range(comm.size)]
        total = torch.tensor([float(comm.rank)])
        dist.all_reduce(total, group=groups[comm.rank])
        return total.item()

    assert ThreadedWorld(size=size).run(fn) == list(range(size))


def another_collective(comm):
    if comm.rank == 0:
        dist.all_reduce(torch.ones(2))
    else:
        dist.broadcast(torch.ones(2), 0)


def another_shape(comm):
    dist.all_reduce(torch.ones(2 + comm.rank))


def too_few_results(comm):
    dist.all_gather([torch.empty(2), torch.empty(3)], torch.ones(2))


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (
            another_collective,
            (
                r"the ranks are in different collectives: rank 0 is in AllReduce of float32 \[2\]; "
                r"rank 1 is in Broadcast of float32 \[2\]"
            ),
        ),
        (another_shape, r"rank 0 is in AllReduce of float32 \[2\]; rank 1 is in AllReduce of float32 \[3\]"),
        (too_few_results, r"AllGather: a result of shape \[2\] does not fit into a tensor of shape \[3\] on rank \d"),
    ],
    ids=["another collective", "another shape", "a result that does not fit"],
)
def test_calls_that_differ_are_named(fn, said):
    with pytest.raises(CannotRunError, match=said):
        ThreadedWorld(size=2).run(fn)


def test_an_input_may_be_changed_as_soon_as_its_rank_goes_on():
    def fn(comm):
        own = torch.full((2,), float(comm.rank))
        gathered = torch.empty(2 * comm.size)
        dist.all_gather_single(gathered, own)
        own.fill_(100)
        dist.barrier()
        return gathered.tolist()

    assert ThreadedWorld(size=3).run(fn) == [[0, 0, 1, 1, 2, 2]] * 3


def coalesces(comm):
    return getattr(dist.group.WORLD._get_backend(torch.device("cpu")), "supports_coalescing", False)


def test_a_batch_of_messages_is_not_coalesced():
    """From torch 2.15 on `batch_isend_irecv` asks the backend of any group, of one in Python too."""
    assert ThreadedWorld(size=2).run(coalesces) == [False, False]
