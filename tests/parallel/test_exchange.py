"""Rows are exchanged as their numbers say, and their gradients come back; with ranks that send or receive none."""

import pytest
import torch
from tests.parallel.ranks import alone, calls_of, run
from torch.distributed.device_mesh import init_device_mesh

from shardproof.errors import CannotRunError
from shardproof.parallel.axis import Axis
from shardproof.parallel.exchange import all_to_all, exchange_rows
from shardproof.worlds.spawned import SpawnedWorld

# How many rows each rank sends to each: uneven, a rank that sends none, one that gets none, and nothing at all.
COUNTS = {
    "uneven": [[1, 2, 0], [3, 0, 1], [2, 2, 2]],
    "a rank sends none": [[0, 0, 0], [1, 2, 3], [1, 0, 1]],
    "a rank gets none": [[2, 0, 1], [1, 0, 1], [0, 0, 4]],
    "none": [[0, 0, 0]] * 3,
}


def splits(counts, rank):
    return {"sent": counts[rank], "received": [row[rank] for row in counts]}


def rows_of(counts, rank):
    """Numbers that say where a row comes from, where it goes, and which of them it is."""
    found = [[100 * rank + 10 * to + which, 0.5] for to, many in enumerate(counts[rank]) for which in range(many)]
    return torch.tensor(found, dtype=torch.float64).reshape(-1, 2)


def exchanged(counts, axis):
    rows = rows_of(counts, axis.rank).requires_grad_()
    found = exchange_rows(rows, axis, **splits(counts, axis.rank))
    (found * found.detach()).sum().backward()
    return found.detach(), rows.grad


@pytest.mark.parametrize("name", COUNTS)
def test_each_rank_gets_its_rows_in_the_order_of_the_ranks_and_gradients_go_back(name):
    counts = COUNTS[name]
    for rank, (found, gradient) in enumerate(run(3, lambda axis: exchanged(counts, axis))):
        wanted = [rows_of(counts, other)[torch.arange(sum(counts[other]))] for other in range(3)]
        wanted = [part.split(counts[other])[rank] for other, part in enumerate(wanted)]
        assert torch.equal(found, torch.cat(wanted))
        assert torch.equal(gradient, rows_of(counts, rank))


def adjoint_of(counts, axis):
    """<A x, y> and <x, A* y> of this rank, in whole numbers; the sums over ranks are equal."""
    numbers = splits(counts, axis.rank)
    generator = torch.Generator().manual_seed(axis.rank)
    x, y = (
        torch.randint(-9, 9, (sum(numbers[name]), 2), generator=generator).double() for name in ("sent", "received")
    )
    found = (exchange_rows(x.requires_grad_(), axis, **numbers) * y).sum()
    found.backward()
    return int(found), int((x.detach() * x.grad).sum())


def test_its_backward_is_its_adjoint():
    left, right = zip(*run(3, lambda axis: adjoint_of(COUNTS["uneven"], axis)), strict=True)
    assert sum(left) == sum(right) != 0
    assert left != right  # on a rank alone they are others


def on_process(comm):
    axis = Axis.of(init_device_mesh("cpu", (comm.size,), mesh_dim_names=("tp",)), "tp")
    return [exchanged(counts, axis) for counts in COUNTS.values()]


@pytest.mark.slow
@pytest.mark.processes
def test_processes_exchange_the_same():
    here = [run(3, lambda axis, counts=counts: exchanged(counts, axis)) for counts in COUNTS.values()]
    for rank, found in enumerate(SpawnedWorld(size=3).run(on_process)):
        for (values, gradient), simulated in zip(found, here, strict=True):
            assert torch.equal(values, simulated[rank][0])
            assert torch.equal(gradient, simulated[rank][1])


def test_it_is_one_call_forward_and_one_backward():
    with alone(2) as axis:
        rows, outputs = torch.ones(3, 2, requires_grad=True), []
        numbers = {"sent": [1, 2], "received": [1, 1]}
        assert calls_of(lambda: outputs.append(exchange_rows(rows, axis, **numbers))) == {"alltoall_base_": 1}
        assert calls_of(lambda: outputs[0].sum().backward()) == {"alltoall_base_": 1}


@pytest.mark.parametrize(("sent", "received"), [([1, 1], [1, 1]), ([3], [1, 1]), ([1, 1, 1], [1, 1]), ([1, 2], [3])])
def test_numbers_that_do_not_fit_are_refused(sent, received):
    with alone(2) as axis, pytest.raises(CannotRunError, match="give a number of rows for each rank"):
        all_to_all(torch.ones(3, 2), axis, sent=sent, received=received)
