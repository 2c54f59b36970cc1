"""Asynchronous calls: poison until the wait, early accesses reported with both lines, and none where there is none."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from shardproof.exact import ExactArithmetic
from shardproof.worlds.collective_trace import trace_collectives
from shardproof.worlds.in_flight import overlap
from shardproof.worlds.threaded import ThreadedWorld


def ignore(_value):
    pass


def start(kind, rank, size):
    """Start one asynchronous call: its work, and its result."""
    given = torch.full((size,), float(rank + 1))
    empty = torch.empty(size)
    calls = {
        "all_reduce": lambda: (dist.all_reduce(given, async_op=True), given),
        "broadcast": lambda: (dist.broadcast(given, 1, async_op=True), given),
        "reduce": lambda: (dist.reduce(given, 0, async_op=True), given),
        "all_gather": lambda: (dist.all_gather(list(empty.split(1)), given[:1].clone(), async_op=True), empty),
        "all_gather_single": lambda: (dist.all_gather_single(empty, given[:1].clone(), async_op=True), empty),
        "reduce_scatter": lambda: (dist.reduce_scatter(empty[:1], list(given.split(1)), async_op=True), empty[:1]),
        "reduce_scatter_single": lambda: (dist.reduce_scatter_single(empty[:1], given, async_op=True), empty[:1]),
        "all_to_all": lambda: (dist.all_to_all(list(empty.split(1)), list(given.split(1)), async_op=True), empty),
        "all_to_all_single": lambda: (dist.all_to_all_single(empty, given, async_op=True), empty),
        "gather": lambda: (
            dist.gather(given[:1].clone(), list(empty.split(1)) if rank == 0 else None, 0, async_op=True),
            empty,
        ),
        "scatter": lambda: (
            dist.scatter(empty[:1], list(given.split(1)) if rank == 0 else None, 0, async_op=True),
            empty[:1],
        ),
        "irecv": lambda: (exchange(empty, given, rank, size), empty),
    }
    return calls[kind]()


def exchange(empty, given, rank, size):
    dist.isend(given, (rank + 1) % size)
    return dist.irecv(empty, (rank - 1) % size)


KINDS = (
    "all_reduce",
    "all_gather",
    "all_gather_single",
    "reduce_scatter",
    "reduce_scatter_single",
    "all_to_all",
    "all_to_all_single",
    "irecv",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
)
EVERYWHERE = KINDS[:8]  # every rank gets a result


def with_wait(comm, kind):
    work, result = start(kind, comm.rank, comm.size)
    before = result.tolist()
    work.wait()
    return before, result.tolist()


EXPECTED = {
    "all_reduce": lambda rank: [3.0, 3.0],
    "broadcast": lambda rank: [2.0, 2.0],
    "reduce": lambda rank: [3.0, 3.0] if rank == 0 else [2.0, 2.0],
    "all_gather": lambda rank: [1.0, 2.0],
    "all_gather_single": lambda rank: [1.0, 2.0],
    "reduce_scatter": lambda rank: [3.0],
    "reduce_scatter_single": lambda rank: [3.0],
    "all_to_all": lambda rank: [1.0, 2.0],
    "all_to_all_single": lambda rank: [1.0, 2.0],
    "irecv": lambda rank: [2.0 - rank, 2.0 - rank],
    "gather": lambda rank: [1.0, 2.0],
    "scatter": lambda rank: [1.0],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_result_is_poison_until_the_wait(kind):
    for rank, (before, after) in enumerate(ThreadedWorld(size=2).run(with_wait, kind)):
        if kind in EVERYWHERE or rank == {"broadcast": 0, "reduce": 0, "gather": 0, "scatter": rank}[kind]:
            assert str(before) == str([float("nan")] * len(after))
            assert after == EXPECTED[kind](rank)


def access(comm, kind, exact, waits):
    """What is reported, and the result, of a program that uses a result before or after the wait."""
    found = []
    modes = exact.joined() if exact is not None else torch.no_grad()
    with modes, trace_collectives(ignore, found.append, poison=exact is None):
        work, result = start(kind, comm.rank, comm.size)
        if waits:
            work.wait()
        doubled = result * 2
        work.wait()
        assert torch.equal(doubled, result * 2)
        shown = (exact.digits(doubled) if exact is not None else doubled).tolist()
    return found, shown


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", EVERYWHERE)
def test_using_the_result_before_the_wait_is_reported_and_the_run_goes_on(kind, exact):
    arithmetic = ExactArithmetic(seed=2) if exact else None
    for rank, (found, doubled) in enumerate(ThreadedWorld(size=2).run(access, kind, arithmetic, False)):
        (early,) = found
        assert (early.access, early.of_input) == ("mul", False)
        assert "test_in_flight.py" in early.call_line
        assert early.access_line.endswith(" in access")
        assert doubled == [2 * x for x in EXPECTED[kind](rank)]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", EVERYWHERE)
def test_using_it_after_the_wait_is_not(kind, exact):
    arithmetic = ExactArithmetic(seed=2) if exact else None
    for rank, (found, doubled) in enumerate(ThreadedWorld(size=2).run(access, kind, arithmetic, True)):
        assert found == []
        assert doubled == [2 * x for x in EXPECTED[kind](rank)]


def in_a_buffer(comm, touched):
    """One buffer, of which the first half is in flight: views of it are no accesses, nor is the other half."""
    found = []
    buffer = torch.zeros(2, 4)
    with trace_collectives(ignore, found.append):
        work = dist.all_reduce(buffer[0], async_op=True)
        views = {
            "other half": buffer[1],
            "through a view": buffer.view(-1)[:4].view(2, 2),
            "a column": buffer[:, 1],
            "shape alone": torch.empty_like(buffer),
        }
        views[touched].add_(1)
        work.wait()
    return [(one.access, one.of_input) for one in found]


@pytest.mark.parametrize(
    ("touched", "expected"),
    [
        ("other half", []),
        ("shape alone", []),
        ("through a view", [("add_", False)]),
        ("a column", [("add_", False)]),
    ],
)
def test_only_the_memory_in_flight_counts(touched, expected):
    assert ThreadedWorld(size=2).run(in_a_buffer, touched) == [expected] * 2


def of_distributed_tensors(_comm):
    """A DTensor names its mesh among its parts."""
    mesh = init_device_mesh("cpu", (2,))
    buffer = torch.zeros(8)
    over = DTensor.from_local(buffer[4:], mesh, [Shard(0)])
    elsewhere = DTensor.from_local(torch.zeros(4), mesh, [Shard(0)])
    pairs = [(over, buffer), (buffer, over), (over, buffer[:4]), (elsewhere, buffer), (over, over)]
    return [overlap(one, other) for one, other in pairs]


def test_distributed_tensors_share_the_memory_of_their_parts():
    assert ThreadedWorld(size=2).run(of_distributed_tensors) == [[True, True, False, False, True]] * 2


def change_input(comm, how):
    found = []
    given, gathered = torch.ones(2), torch.empty(4)
    with trace_collectives(ignore, found.append):
        work = dist.all_gather_single(gathered, given, async_op=True)
        if how == "read":
            given + 1
        if how == "write":
            given.add_(1)
        work.wait()
        given.add_(1)
    return [(one.access, one.of_input) for one in found], gathered.tolist()


@pytest.mark.parametrize(("how", "expected"), [("read", []), ("write", [("add_", True)]), ("leave", [])])
def test_an_input_may_be_read_and_not_be_changed(how, expected):
    assert ThreadedWorld(size=2).run(change_input, how) == [(expected, [1.0] * 4)] * 2


def by_other_ways(comm, way):
    given = torch.full((2,), float(comm.rank))
    work = dist.all_reduce(given, async_op=True)
    future = work.get_future()
    assert torch.isnan(given).all()
    if way == "future":
        assert future.wait()[0] is given
    if way == "then":
        return future.then(lambda done: done.value()[0] * 10).wait().tolist()
    if way == "poll":
        while not work.is_completed():
            pass
    if way == "synchronize":
        work.synchronize()
    return (given * 10).tolist()


@pytest.mark.parametrize("way", ["future", "then", "poll", "synchronize"])
def test_other_ways_to_wait(way):
    assert ThreadedWorld(size=3).run(by_other_ways, way) == [[30.0, 30.0]] * 3


def functional(comm):
    """DTensor's collectives wait by themselves when their result is used."""
    import torch.distributed._functional_collectives as functional_collectives

    found = []
    with trace_collectives(ignore, found.append):
        result = functional_collectives.all_reduce(torch.ones(2), "sum", dist.group.WORLD)
        return (result + 1).tolist(), found


def test_functional_collectives_wait_by_themselves():
    assert ThreadedWorld(size=2).run(functional) == [([3.0, 3.0], [])] * 2


def overlapping(comm):
    """An asynchronous collective does not hold up a rank: the message that the other waits for comes first."""
    total = torch.ones(2)
    if comm.rank == 0:
        work = dist.all_reduce(total, async_op=True)
        dist.send(torch.tensor([5.0]), 1)
        work.wait()
        return total.tolist()
    got = torch.empty(1)
    dist.recv(got, 0)
    dist.all_reduce(total)
    return total.tolist(), got.item()


def test_a_rank_goes_on_until_it_waits():
    assert ThreadedWorld(size=2).run(overlapping) == [[2.0, 2.0], ([2.0, 2.0], 5.0)]


def ddp(comm):
    """PyTorch's data parallel, whose buckets are reduced asynchronously, from C++."""
    torch.manual_seed(0)
    found = []
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2))
    with trace_collectives(ignore, found.append):
        model(torch.full((1, 3), float(comm.rank + 1))).sum().backward()
    return model.module.weight.grad.tolist(), found


def test_data_parallel_averages_and_is_no_early_access():
    assert ThreadedWorld(size=2).run(ddp) == [([[1.5] * 3] * 2, [])] * 2
