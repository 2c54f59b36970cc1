"""What ranks run in these tests: at the top of a module, where a spawned process finds it."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from shardproof.worlds.communicator import shard_range

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
SHAPES = (((4, 8), 0), ((4, 8), 1), ((5, 7), 0), ((5, 7), 1), ((2, 3, 5), -1), ((3, 2, 5), -2), ((9,), 0), ((1, 3), 0))


def draw(shape, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def every_collective(comm, seed):
    """All three collectives on many shapes, dims and dtypes; inputs that are contiguous and that are not."""
    results = {}
    for dtype in DTYPES:
        for shape, dim in SHAPES:
            for transposed in (False, True):
                key = (str(dtype), shape, dim, transposed)
                total = shape[dim]
                start, stop = shard_range(total, comm.rank, comm.size)
                shard = draw(shape, dtype, seed).narrow(dim, start, stop - start)
                partial = draw(shape, dtype, seed + 1 + comm.rank)
                if transposed:
                    shard = shard.mT.contiguous().mT if shard.ndim > 1 else shard.repeat_interleave(2)[::2]
                    partial = partial.mT.contiguous().mT if partial.ndim > 1 else partial.repeat_interleave(2)[::2]
                before = partial.clone()
                results["all_gather", *key] = comm.all_gather(shard, dim=dim, total=total, name="x")
                results["reduce_scatter", *key] = comm.reduce_scatter(partial, dim=dim, name="p")
                results["all_reduce", *key] = comm.all_reduce(partial, name="p")
                assert torch.equal(partial, before)
    return results


def step(comm, x, w):
    """A column-split product, its gather, and a sum over ranks: as a layer does, forward and backward."""
    start, stop = shard_range(w.shape[0], comm.rank, comm.size)
    out = comm.all_gather(x @ w[start:stop].T, dim=1, total=w.shape[0], name="out")
    dx = comm.reduce_scatter(out[:, start:stop] @ w[start:stop], dim=1, name="dx")
    norm = comm.all_reduce(out[:, start:stop].square().sum(), name="norm")
    return {"out": out, "dx": dx, "norm": norm}


def raise_on(comm, rank):
    comm.all_reduce(torch.ones(2), name="first")
    if comm.rank == rank:
        raise OverflowError("more than it can hold")
    comm.all_reduce(torch.ones(2), name="second")


def exit_on(comm, rank, code):
    comm.all_reduce(torch.ones(2), name="first")
    if comm.rank == rank:
        os._exit(code)
    comm.all_reduce(torch.ones(2), name="second")


def kill_on(comm, rank):
    comm.all_reduce(torch.ones(2), name="first")
    if comm.rank == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.all_reduce(torch.ones(2), name="second")


def hang_on(comm, rank):
    comm.all_reduce(torch.ones(2), name="first")
    if comm.rank == rank:
        time.sleep(600)
    comm.all_reduce(torch.ones(2), name="second")


def exit_while_others_compute(comm, rank, code):
    comm.all_reduce(torch.ones(2), name="first")
    if comm.rank == rank:
        os._exit(code)
    time.sleep(600)


def return_on(comm, rank):
    comm.all_reduce(torch.ones(2), name="first")
    if comm.rank != rank:
        comm.all_reduce(torch.ones(2), name="second")


def part(comm):
    if comm.rank == 0:
        comm.all_gather(torch.ones(2), dim=0, total=2 * comm.size, name="hidden")
    else:
        comm.reduce_scatter(torch.ones(6), dim=0, name="gradient")


def print_and_warn(comm):
    import sys
    import warnings

    warnings.warn("mind the gap", stacklevel=1)
    print("to stderr", file=sys.stderr)
    if comm.rank == 0:
        print("rank 0 says hello")
    return torch.get_num_threads()


def echo(comm, *values):
    return comm.rank, comm.size, values


def describe_surroundings(comm):
    main = getattr(sys.modules["__main__"], "__file__", None)
    return dict(os.environ), str(Path.cwd()), torch.get_num_threads(), main
