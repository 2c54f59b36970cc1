"""What ranks run to hold each collective to its adjoint; at the top of a module, where a spawned process finds it."""

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from shardproof.parallel import collectives
from shardproof.parallel.axis import Axis
from shardproof.worlds.communicator import shard_sizes


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A collective, and the spaces that it goes between.

    A replicated tensor is one tensor, however many ranks have it: an inner product counts it once. Of shards, and of
    tensors that each rank has its own of, every rank's counts.
    """

    source: str
    target: str
    function: object


def gathers(function):
    return lambda x, axis, dim, total: function(x, axis, dim=dim, total=total)


def cuts(function):
    return lambda x, axis, dim, total: function(x, axis, dim=dim)


def sums(function):
    return lambda x, axis, dim, total: function(x, axis)


PAIRS = {
    "sum_gradients": Pair(source="replicated", target="own", function=sums(collectives.sum_gradients)),
    "sum_partials": Pair(source="own", target="replicated", function=sums(collectives.sum_partials)),
    "gather_shards": Pair(source="shard", target="replicated", function=gathers(collectives.gather_shards)),
    "take_shard": Pair(source="replicated", target="shard", function=cuts(collectives.take_shard)),
    "gather_shards_sum_gradients": Pair(
        source="shard", target="own", function=gathers(collectives.gather_shards_sum_gradients)
    ),
    "sum_partials_take_shard": Pair(source="own", target="shard", function=cuts(collectives.sum_partials_take_shard)),
}


def wrong(forward, backward):
    """A collective whose backward is not its adjoint."""

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, axis, dim, total):
            ctx.how = axis, dim, total
            return forward(x, axis, dim, total)

        @staticmethod
        def backward(ctx, gradient):
            return backward(gradient, *ctx.how), None, None, None

    return Wrong.apply


def reduce(x, axis, dim, total):
    return collectives.all_reduce(x, axis)


def same(x, axis, dim, total):
    return x.clone()


def gather(x, axis, dim, total):
    return collectives.all_gather(x, axis, dim=dim, total=total)


def own(x, axis, dim, total):
    return collectives.own_shard(x, axis, dim=dim)


def scatter(x, axis, dim, total):
    return collectives.reduce_scatter(x, axis, dim=dim)


def gather_reversed(x, axis, dim, total):
    return torch.cat(collectives.start_all_gather(x, axis, dim=dim, total=total).wait()[::-1], dim)


WRONG = {
    "all-reduce that is its own backward": Pair(source="own", target="replicated", function=wrong(reduce, reduce)),
    "identity without its all-reduce": Pair(source="replicated", target="own", function=wrong(same, same)),
    "gather whose backward splits": Pair(source="shard", target="own", function=wrong(gather, own)),
    "gather whose backward sums what is replicated": Pair(
        source="shard", target="replicated", function=wrong(gather, scatter)
    ),
    "shard whose backward sums": Pair(
        source="replicated", target="shard", function=wrong(own, lambda g, a, d, t: gather(g, a, d, t) * a.size)
    ),
    "reduce-scatter whose backward gathers in another order": Pair(
        source="own", target="shard", function=wrong(scatter, gather_reversed)
    ),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Of the whole tensor; `strided` inputs and cotangents are not contiguous."""

    shape: tuple[int, ...]
    dim: int
    strided: bool = False
    by_exchange: bool = True

    def over(self, axis):
        """The axis with this case's transport."""
        return replace(axis, by_exchange=self.by_exchange)

    def draw(self, space, axis, seed):
        """A tensor of a space: the same on every rank where it is replicated, and each rank's own elsewhere."""
        shape = list(self.shape)
        if space == "shard":
            shape[self.dim] = shard_sizes(shape[self.dim], axis.size)[axis.rank]
        # Groups of a larger world have tensors of their own: what one of them adds to another's would be seen.
        seed = seed + 100 * dist.get_rank() if space != "replicated" else seed + 100_000 * min(ranks_of(axis))
        if self.strided:
            drawn = torch.randn(2, *shape[::-1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            return drawn.movedim(0, -1)[..., 0].permute(*reversed(range(len(shape))))
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ranks_of(axis):
    return dist.get_process_group_ranks(axis.group)


def make_axis(comm, mesh_shape):
    """The last axis of a mesh; with two, this rank's is one group of several."""
    names = ("dp", "tp")[-len(mesh_shape) :]
    assert comm.size == torch.Size(mesh_shape).numel()
    return Axis.of(init_device_mesh("cpu", mesh_shape, mesh_dim_names=names), "tp")


def draw_pair(pair, case, axis):
    """An x and a y."""
    return nn.Parameter(case.draw(pair.source, axis, seed=1)), nn.Parameter(case.draw(pair.target, axis, seed=2))


def apply_and_differentiate(pair, case, axis, x, y):
    """A x and A* y."""
    out = pair.function(x, axis, case.dim, case.shape[case.dim])
    (gradient,) = torch.autograd.grad(out, x, y.detach())
    assert out.shape == y.shape
    assert gradient.shape == x.shape
    return out, gradient


def products(comm, exact, pair, cases, mesh_shape):
    """For each case, this rank's part of <A x, y> and of <x, A* y>, and the digits of what is replicated."""
    axis = make_axis(comm, mesh_shape)
    found = []
    for case in cases:
        here = case.over(axis)
        x, y = draw_pair(pair, case, here)
        with exact.joined():
            out, gradient = apply_and_differentiate(pair, case, here, x, y)
            left, right = exact.digits((out * y).sum()).item(), exact.digits((x * gradient).sum()).item()
            replicas = {
                "out": exact.digits(out) if pair.target == "replicated" else None,
                "gradient": exact.digits(gradient) if pair.source == "replicated" else None,
            }
        dist.barrier()  # the last rank to leave puts every rank's tensors back
        counts = {"left": pair.target != "replicated" or axis.rank == 0}
        counts["right"] = pair.source != "replicated" or axis.rank == 0
        found.append((left * counts["left"], right * counts["right"], min(ranks_of(axis)), replicas))
    return found


def natively(comm, cases):
    """Every collective and its gradient in ordinary arithmetic."""
    axis = make_axis(comm, (comm.size,))
    found = {}
    for name, pair in PAIRS.items():
        for number, case in enumerate(cases):
            here = case.over(axis)
            out, gradient = apply_and_differentiate(pair, case, here, *draw_pair(pair, case, here))
            found[name, number] = out.detach(), gradient
    return found
