"""Per-rank code that counts its collectives twice: by the ledger, and by PyTorch's CommDebugMode."""

import torch
from torch.distributed.tensor.debug import CommDebugMode

from shardproof.worlds.communicator import shard_range
from shardproof.worlds.ledger import LedgeredCommunicator

# What CommDebugMode calls the operators beneath the collectives.
OPERATORS = {"_allgather_base_": "all_gather", "_reduce_scatter_base_": "reduce_scatter", "allreduce_": "all_reduce"}


def step(comm, *, columns):
    """Three uneven collectives in two sections."""
    comm.section = "forward"
    start, stop = shard_range(columns, comm.rank, comm.size)
    out = comm.all_gather(torch.ones(2, stop - start), dim=1, total=columns, name="hidden")
    out = comm.all_gather(out[:, start:stop], dim=1, total=columns, name="output")
    comm.section = "backward"
    comm.reduce_scatter(out, dim=0, name="gradient")
    for _ in range(3):
        comm.all_reduce(out, name="norm")


def count_twice(comm, columns, beside_the_ledger):
    """Both counts by kind; with `beside_the_ledger` one more collective goes past the ledger."""
    books = LedgeredCommunicator(inner=comm)
    with CommDebugMode() as mode:
        step(books, columns=columns)
        if beside_the_ledger:
            comm.all_reduce(torch.ones(1), name="unlisted")
    entered = {}
    for entry in books.ledger.entries:
        entered[entry.collective] = entered.get(entry.collective, 0) + 1
    return entered, {OPERATORS[str(op).split(".")[-1]]: count for op, count in mode.get_comm_counts().items()}
