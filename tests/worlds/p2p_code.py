"""What ranks do with point-to-point calls in these tests: the same in threads and in processes."""

import torch
import torch.distributed as dist


def value(rank, step=0):
    return torch.arange(6.0).view(2, 3) + 10 * rank + 100 * step


def ring(comm):
    """isend and irecv, then blocking ones, even ranks first; what arrived, and from whom."""
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    first = torch.empty(2, 3)
    for work in (dist.irecv(first, before), dist.isend(value(comm.rank), after)):
        work.wait()
    second = torch.empty(2, 3)
    if comm.rank % 2:
        source = dist.recv(second, before)
        dist.send(value(comm.rank, 1), after)
    else:
        dist.send(value(comm.rank, 1), after)
        source = dist.recv(second, before)
    return first, second, source


def batch(comm):
    """A halo exchange: both neighbours at once, receives first."""
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    left, right = torch.empty(2, 3), torch.empty(2, 3)
    works = dist.batch_isend_irecv(
        [
            dist.P2POp(dist.irecv, left, before, tag=1),
            dist.P2POp(dist.irecv, right, after, tag=2),
            dist.P2POp(dist.isend, value(comm.rank), after, tag=1),
            dist.P2POp(dist.isend, value(comm.rank, 1), before, tag=2),
        ]
    )
    for work in works:
        work.wait()
    return left, right


def in_order(comm):
    """Messages of one tag arrive in order, and each tag is a line of its own."""
    if comm.rank == 0:
        works = [dist.isend(torch.tensor([float(n)]), 1, tag=n % 2) for n in range(6)]
        for work in works:
            work.wait()
        return None
    odd = [receive(1, tag=1) for _ in range(3)]
    even = [receive(1, tag=0) for _ in range(3)]
    return odd + even


def receive(length, tag=0, source=0):
    tensor = torch.empty(length)
    dist.recv(tensor, source, tag=tag)
    return tensor.item()


def objects(comm):
    """Object lists, from a known rank and from any; and a message from any rank."""
    if comm.rank == 0:
        dist.send_object_list(["a", {"b": 2}], dst=1)
        tensor = torch.empty(1)
        return dist.recv(tensor), tensor.item()
    received = [None, None]
    dist.recv_object_list(received, src=0)
    dist.send(torch.tensor([7.0]), 0)
    return received


def in_subgroup(comm):
    """Ranks 0 and 2 have a group of their own, in which they are 0 and 1."""
    group = dist.new_group([0, 2])
    if comm.rank == 0:
        dist.send(torch.tensor([3.0]), 2, group=group)
    if comm.rank == 2:
        tensor = torch.empty(1)
        return dist.recv(tensor, group_src=0, group=group), tensor.item()
    return None


# Ranks that do not match ----------------------------------------------------------------------------------------------


def both_receive(comm):
    dist.recv(torch.empty(2), 1 - comm.rank)


def both_send(comm):
    dist.send(torch.ones(2), 1 - comm.rank)


def another_shape(comm):
    if comm.rank == 0:
        dist.send(torch.ones(3), 1)
    else:
        dist.recv(torch.empty(2, 2), 0)


def another_dtype(comm):
    if comm.rank == 0:
        dist.send(torch.ones(2), 1)
    else:
        dist.recv(torch.empty(2, dtype=torch.int32), 0)


def another_tag(comm):
    if comm.rank == 0:
        dist.send(torch.ones(2), 1, tag=4)
    else:
        dist.recv(torch.empty(2), 0, tag=5)


def never_received(comm):
    if comm.rank == 0:
        dist.isend(torch.ones(2), 1)


def never_sent(comm):
    if comm.rank == 1:
        dist.irecv(torch.empty(2), 0)


def collective_and_message(comm):
    if comm.rank == 0:
        dist.all_reduce(torch.ones(2))
    else:
        dist.recv(torch.empty(2), 0)
