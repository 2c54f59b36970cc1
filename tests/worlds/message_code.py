"""What ranks send and receive through a `Communicator` in these tests: the same in every world."""

import torch

from shardproof.worlds.ledger import LedgeredCommunicator


def value(rank, number=0):
    return torch.arange(6.0).view(2, 3) + 10 * rank + 100 * number


def pass_round(comm):
    """A ring, even ranks first; the second round is of another layout and dtype."""
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    got = []
    for number in range(2):
        tensor, into = value(comm.rank, number), torch.empty(2, 3)
        if number:
            tensor, into = tensor.T.bfloat16(), torch.empty(2, 3).T.bfloat16()
        if comm.rank % 2:
            got.append(comm.receive(into, source=before, name="x"))
        comm.send(tensor, to=after, name="x")
        if not comm.rank % 2:
            got.append(comm.receive(into, source=before, name="x"))
        assert got[-1] is into
    return got


def keep_order(comm):
    """Rank 0 sends five messages of one name, which rank 1 receives in order."""
    if comm.rank == 0:
        for number in range(5):
            comm.send(torch.tensor([float(number)]), to=1, name="n")
        return None
    return [comm.receive(torch.empty(1), source=0, name="n").item() for _ in range(5)]


def pipeline_with_a_sum(comm):
    """Ranks come to the all-reduce in another order than their own: its sum is in rank order all the same."""
    if comm.rank > 0:
        comm.receive(torch.empty(1), source=0, name="go")
    else:
        for other in reversed(range(1, comm.size)):
            comm.send(torch.ones(1), to=other, name="go")
    return comm.all_reduce(torch.tensor([0.1, 1e8, -1e8, 0.3]).roll(comm.rank), name="sum")


def keep_books(comm):
    books = LedgeredCommunicator(inner=comm, section="5.1")
    if comm.rank == 0:
        books.send(torch.ones(2, 3), to=1, name="h")
        books.receive(torch.empty(3, dtype=torch.float64), source=1, name="dh")
    elif comm.rank == 1:
        books.receive(torch.empty(2, 3), source=0, name="h")
        books.section = "5.2"
        books.send(torch.ones(3, dtype=torch.float64), to=0, name="dh")
    return books.ledger


def both_send(comm):
    comm.send(torch.ones(2), to=1 - comm.rank, name="h")


def both_receive(comm):
    comm.receive(torch.ones(2), source=1 - comm.rank, name="h")


def another(comm, name, shape, dtype):
    if comm.rank == 0:
        comm.send(torch.ones(2, 3), to=1, name="h")
    else:
        comm.receive(torch.empty(shape, dtype=getattr(torch, dtype)), source=0, name=name)


def never_received(comm):
    if comm.rank == 0:
        comm.send(torch.ones(2), to=1, name="h")


def never_sent(comm):
    if comm.rank == 1:
        comm.receive(torch.ones(2), source=0, name="h")


def sum_and_message(comm):
    if comm.rank == 0:
        comm.all_reduce(torch.ones(2), name="norm")
    else:
        comm.receive(torch.ones(2), source=0, name="h")


def raise_before_sending(comm):
    if comm.rank == 0:
        raise OverflowError("too much")
    comm.receive(torch.ones(2), source=0, name="h")
