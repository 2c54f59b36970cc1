"""Every collective of tensor parallelism: first as a function of plain tensors, then as a pair with its backward.

Along an axis of N ranks a tensor is *replicated* (the same on every rank), a *shard* (the ranks' parts make the whole,
cut by `shard_sizes`; some may be empty), or each rank's *own* (partial values, whose sum is meant, or copies that each
rank uses in its own way). The gradient of a replicated tensor is replicated, that of a shard is a shard, that of what
is each rank's own is each rank's own. So each collective has one right backward, its adjoint; these are three pairs:

    function                      forward          backward         from         to
    sum_gradients                 identity         all-reduce       replicated   own
    sum_partials                  all-reduce       identity         own          replicated
    gather_shards                 all-gather       own shard        shard        replicated
    take_shard                    own shard        all-gather       replicated   shard
    gather_shards_sum_gradients   all-gather       reduce-scatter   shard        own
    sum_partials_take_shard       reduce-scatter   all-gather       own          shard

`tests/parallel/test_collectives.py` holds each to <A x, y> = <x, A* y> in exact arithmetic. Source of the pairs:
Shoeybi et al., "Megatron-LM" (arXiv:1909.08053), section 3; Korthikanti et al. (arXiv:2205.05198), section 4.2.2.

Along an axis of one rank nothing is communicated or copied. Where forward is the identity or a rank's own shard the
result is a view; autograd refuses to write into it in place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
import torch.distributed as dist

from shardproof.errors import CannotRunError
from shardproof.worlds.communicator import shard_range, shard_sizes
from shardproof.worlds.padding import pad, stack_padded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from shardproof.parallel.axis import Axis

T = TypeVar("T")

# Plain tensors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending(Generic[T]):
    """A collective under way. The tensors it was given must not change until `wait` returns."""

    work: dist.Work | None
    finish: Callable[[], T]

    def wait(self) -> T:
        """Wait for it, once, and return its result."""
        if self.work is not None:
            self.work.wait()
        return self.finish()


def all_gather(shard: Tensor, axis: Axis, *, dim: int, total: int | None = None) -> Tensor:
    """Concatenate every rank's shard along `dim`; every rank gets the whole. No autograd.

    Args:
        shard: this rank's part, of any strides.
        axis: the ranks.
        dim: the tensor dimension that is split.
        total: the length of the whole along `dim`; None where every rank's shard is as long as this one. Shards that
            are not, without it, are an error of the library's on some rank.

    Raises:
        CannotRunError: the shard is not as long as this rank's part of `total`, or has no dimension `dim`.
    """
    parts = start_all_gather(shard, axis, dim=dim, total=total).wait()
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def reduce_scatter(partial: Tensor, axis: Axis, *, dim: int) -> Tensor:
    """Sum every rank's `partial`, then keep this rank's shard of the sum along `dim`. No autograd.

    Raises:
        CannotRunError: `partial` has no dimension `dim`.
    """
    dim = _count_from_front(partial, dim)
    return start_reduce_scatter(partial.split(shard_sizes(partial.shape[dim], axis.size), dim), axis, dim=dim).wait()


def all_reduce(partial: Tensor, axis: Axis) -> Tensor:
    """Sum every rank's `partial`; every rank gets the sum, bit for bit the same. No autograd."""
    return start_all_reduce(partial, axis).wait()


def all_reduce_max(tensor: Tensor, axis: Axis) -> Tensor:
    """The element-wise maximum over the ranks, on every rank. No autograd."""
    if axis.size == 1:
        return tensor.detach()
    highest = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(highest, dist.ReduceOp.MAX, group=axis.group)
    return highest


def own_shard(whole: Tensor, axis: Axis, *, dim: int) -> Tensor:
    """This rank's shard of a whole along `dim`: a view, nothing is communicated.

    Autograd would take the rest of its gradient for zero; with `take_shard` it gathers the other ranks'.

    Raises:
        CannotRunError: `whole` has no dimension `dim`.
    """
    dim = _count_from_front(whole, dim)
    start, stop = shard_range(whole.shape[dim], axis.rank, axis.size)
    return whole.narrow(dim, start, stop - start)


def start_all_gather(shard: Tensor, axis: Axis, *, dim: int, total: int | None = None) -> Pending[tuple[Tensor, ...]]:
    """Begin an all-gather; the result is every rank's shard, in rank order, not put together. See `all_gather`.

    This rank's own is `shard` itself, so that work on it need not wait.
    """
    dim = _count_from_front(shard, dim)
    lengths = _check_length(shard, axis, dim, total)
    shard = shard.detach()
    if axis.size == 1:
        return Pending(work=None, finish=lambda: (shard,))
    shapes = [(*shard.shape[:dim], length, *shard.shape[dim + 1 :]) for length in lengths]
    if not axis.by_exchange:
        return _start_gather_padded(shard, axis, dim, shapes)
    if axis.size == 2:
        work, other = _start_swap(shard, shapes[1 - axis.rank], axis)
        return Pending(work=work, finish=lambda: (other, shard) if axis.rank else (shard, other))
    return _start_exchange([shard] * axis.size, shapes, axis)


def start_reduce_scatter(parts: Sequence[Tensor], axis: Axis, *, dim: int) -> Pending[Tensor]:
    """Begin a reduce-scatter; the result is the sum over the ranks of what each has for this rank.

    Args:
        parts: for each rank, in rank order, this rank's partial value of that rank's shard.
        axis: the ranks.
        dim: the dimension along which the parts may differ in length.
    """
    own = parts[axis.rank].detach()
    if axis.size == 1:
        return Pending(work=None, finish=lambda: own)
    if not axis.by_exchange:
        return _start_reduce_padded(parts, axis, dim)
    if axis.size == 2:
        work, other = _start_swap(parts[1 - axis.rank].detach(), own.shape, axis)
        return Pending(work=work, finish=lambda: other.add_(own))
    exchange = _start_exchange([part.detach() for part in parts], [own.shape] * axis.size, axis)
    return Pending(work=exchange.work, finish=lambda: _add_up(exchange.finish()))


def start_all_reduce(partial: Tensor, axis: Axis) -> Pending[Tensor]:
    """Begin an all-reduce; the result is the sum, along an axis of one rank the argument itself. See `all_reduce`."""
    partial = partial.detach()
    if axis.size == 1:
        return Pending(work=None, finish=lambda: partial)
    if not axis.by_exchange:
        total = partial.clone(memory_format=torch.contiguous_format)
        work = dist.all_reduce(total, group=axis.group, async_op=True)
        return Pending(work=work, finish=lambda: total)
    if axis.size == 2:
        # As many bytes as a reduce-scatter and an all-gather, in one message; a + b = b + a, bit for bit.
        work, other = _start_swap(partial, partial.shape, axis)
        return Pending(work=work, finish=lambda: other.add_(partial))
    flat = partial.contiguous().view(-1)
    scattered = start_reduce_scatter(flat.split(shard_sizes(flat.numel(), axis.size)), axis, dim=0)

    def finish() -> Tensor:
        return all_gather(scattered.finish(), axis, dim=0, total=flat.numel()).view(partial.shape)

    return Pending(work=scattered.work, finish=finish)


def _start_swap(sent: Tensor, shape: Sequence[int], axis: Axis) -> tuple[dist.Work, Tensor]:
    """Give a tensor to the other of two ranks for one of `shape`."""
    sent = sent.contiguous().view(-1)
    received = sent.new_empty(shape)
    flat = received.view(-1)
    to, back = sent.numel(), flat.numel()
    sizes, lengths = ([back, 0], [to, 0]) if axis.rank else ([0, back], [0, to])
    return dist.all_to_all_single(flat, sent, sizes, lengths, group=axis.group, async_op=True), received


def _start_exchange(
    parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], axis: Axis
) -> Pending[tuple[Tensor, ...]]:
    """Give each rank its part; the result is what each rank gave to this one, this rank's own among them in its place.

    Args:
        parts: for each rank, in rank order.
        shapes: of what comes from each rank.
        axis: the ranks.
    """
    own = parts[axis.rank]
    others = [part.contiguous().view(-1) for rank, part in enumerate(parts) if rank != axis.rank]
    lengths = [0 if rank == axis.rank else part.numel() for rank, part in enumerate(parts)]
    sizes = [0 if rank == axis.rank else math.prod(shape) for rank, shape in enumerate(shapes)]
    received = own.new_empty(sum(sizes))
    work = dist.all_to_all_single(received, torch.cat(others), sizes, lengths, group=axis.group, async_op=True)

    def finish() -> tuple[Tensor, ...]:
        pieces = zip(received.split(sizes), shapes, strict=True)
        return tuple(own if rank == axis.rank else piece.view(shape) for rank, (piece, shape) in enumerate(pieces))

    return Pending(work=work, finish=finish)


def _start_gather_padded(
    shard: Tensor, axis: Axis, dim: int, shapes: Sequence[Sequence[int]]
) -> Pending[tuple[Tensor, ...]]:
    """The library's own all-gather, which takes equal parts only: each as long as the longest, the first rank's."""
    padded = pad(shard, dim=dim, length=shapes[0][dim])
    parts = shard.new_empty((axis.size, *shapes[0]))
    work = dist.all_gather_single(parts.view(-1), padded.contiguous().view(-1), group=axis.group, async_op=True)

    def finish() -> tuple[Tensor, ...]:
        return tuple(
            shard if rank == axis.rank else part.narrow(dim, 0, shapes[rank][dim]) for rank, part in enumerate(parts)
        )

    return Pending(work=work, finish=finish)


def _start_reduce_padded(parts: Sequence[Tensor], axis: Axis, dim: int) -> Pending[Tensor]:
    """The library's own reduce-scatter, which takes equal parts only: each as long as the longest, the first rank's."""
    own = parts[axis.rank].detach()
    padded = stack_padded([part.detach() for part in parts], dim=dim, length=parts[0].shape[dim])
    total = own.new_empty(parts[0].shape)
    work = dist.reduce_scatter_single(total.view(-1), padded.view(-1), group=axis.group, async_op=True)
    return Pending(work=work, finish=lambda: total.narrow(dim, 0, own.shape[dim]))


def _add_up(parts: Sequence[Tensor]) -> Tensor:
    """The sum in rank order, in memory of its own."""
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total


def _count_from_front(tensor: Tensor, dim: int) -> int:
    if not -tensor.ndim <= dim < tensor.ndim:
        raise CannotRunError(f"a tensor of shape {list(tensor.shape)} has no dim {dim}; it has {tensor.ndim}")
    return dim % tensor.ndim


def _check_length(shard: Tensor, axis: Axis, dim: int, total: int | None) -> tuple[int, ...]:
    """How long every rank's shard is."""
    if total is None:
        return (shard.shape[dim],) * axis.size
    lengths = shard_sizes(total, axis.size)
    if shard.shape[dim] != lengths[axis.rank]:
        raise CannotRunError(
            f"the shard of shape {list(shard.shape)} is {shard.shape[dim]} long along dim {dim}; rank {axis.rank} of "
            f"{axis.size} along {axis.name!r} holds {lengths[axis.rank]} of {total}: cut it with take_shard"
        )
    return lengths


# With their backward -------------------------------------------------------------------------------------------------


def sum_gradients(x: Tensor, axis: Axis) -> Tensor:
    """Identity forward, all-reduce backward: a replicated tensor, for each rank to use in its own way.

    The input of a column-split linear. Without it the gradient lacks every other rank's part.
    """
    return x if axis.size == 1 else _call(_SumGradients, x, axis)


def sum_partials(x: Tensor, axis: Axis) -> Tensor:
    """All-reduce forward, identity backward: partial values become their sum, on every rank.

    The output of a row-split linear. Not its own backward: the gradient of the sum is whole on every rank already.
    """
    return x if axis.size == 1 else _call(_SumPartials, x, axis)


def gather_shards(x: Tensor, axis: Axis, *, dim: int, total: int | None = None) -> Tensor:
    """All-gather forward, own shard backward: every rank gets the whole along `dim`, and all use it alike.

    For a whole that ranks use each in their own way, `gather_shards_sum_gradients`. `total` as for `all_gather`, which
    says what is raised.
    """
    return x if axis.size == 1 else _call(_GatherShards, x, axis, dim, total)


def take_shard(x: Tensor, axis: Axis, *, dim: int) -> Tensor:
    """Own shard forward, all-gather backward: of a replicated tensor each rank keeps its part along `dim`."""
    return x if axis.size == 1 else _call(_TakeShard, x, axis, dim)


def gather_shards_sum_gradients(x: Tensor, axis: Axis, *, dim: int, total: int | None = None) -> Tensor:
    """All-gather forward, reduce-scatter backward: every rank gets the whole along `dim`, to use in its own way.

    The input of a column-split linear under sequence parallelism. `total` as for `all_gather`, which says what is
    raised.
    """
    return x if axis.size == 1 else _call(_GatherShardsSumGradients, x, axis, dim, total)


def sum_partials_take_shard(x: Tensor, axis: Axis, *, dim: int) -> Tensor:
    """Reduce-scatter forward, all-gather backward: of the sum of partial values each rank keeps its part along `dim`.

    The output of a row-split linear under sequence parallelism.
    """
    return x if axis.size == 1 else _call(_SumPartialsTakeShard, x, axis, dim)


def _call(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)
    return result


# Each backward is its adjoint's forward, with that one's backward: they can be differentiated as often as one likes.


class _SumGradients(torch.autograd.Function):
    """Identity forward, all-reduce backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return sum_partials(gradient, ctx.axis), None


class _SumPartials(torch.autograd.Function):
    """All-reduce forward, identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return all_reduce(x, axis)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return sum_gradients(gradient, ctx.axis), None


class _GatherShards(torch.autograd.Function):
    """All-gather forward, own shard backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis, dim: int, total: int | None) -> Tensor:
        ctx.axis, ctx.dim = axis, dim
        return all_gather(x, axis, dim=dim, total=total)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return take_shard(gradient, ctx.axis, dim=ctx.dim), None, None, None


class _TakeShard(torch.autograd.Function):
    """Own shard forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis, dim: int) -> Tensor:
        ctx.axis, ctx.dim, ctx.total = axis, dim, x.shape[dim]
        return own_shard(x, axis, dim=dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gather_shards(gradient, ctx.axis, dim=ctx.dim, total=ctx.total), None, None


class _GatherShardsSumGradients(torch.autograd.Function):
    """All-gather forward, reduce-scatter backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis, dim: int, total: int | None) -> Tensor:
        ctx.axis, ctx.dim = axis, dim
        return all_gather(x, axis, dim=dim, total=total)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return sum_partials_take_shard(gradient, ctx.axis, dim=ctx.dim), None, None, None


class _SumPartialsTakeShard(torch.autograd.Function):
    """Reduce-scatter forward, all-gather backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axis: Axis, dim: int) -> Tensor:
        ctx.axis, ctx.dim, ctx.total = axis, dim, x.shape[dim]
        return reduce_scatter(x, axis, dim=dim)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gather_shards_sum_gradients(gradient, ctx.axis, dim=ctx.dim, total=ctx.total), None, None
