"""Every collective of tensor parallelism: first as a function of plain tensors, then with its backward.

Along an axis of N ranks a tensor is *replicated* (the same on every rank), a *shard* (the shards of all ranks, cut by
`shard_sizes`, make the full tensor; some may be empty), or each rank's *own* (partial values to be summed, or copies
that each rank uses differently). A gradient is of the same kind as its tensor. So each collective has exactly one right
backward, its adjoint. The six functions are three pairs of adjoints:

    function                      forward          backward         from         to           papers
    sum_gradients                 identity         all-reduce       replicated   own          f
    sum_partials                  all-reduce       identity         own          replicated   g; f-bar
    gather_shards                 all-gather       own shard        shard        replicated
    take_shard                    own shard        all-gather       replicated   shard
    gather_shards_sum_gradients   all-gather       reduce-scatter   shard        own          g
    sum_partials_take_shard       reduce-scatter   all-gather       own          shard        g-bar

The last column is the letter in the papers, which Megatron-LM and picotron use too. `sum_partials` is g in Shoeybi et
al., "Megatron-LM" (arXiv:1909.08053), section 3, and f-bar in Korthikanti et al. (arXiv:2205.05198), section 4.2.2,
where g and g-bar are the last two. The middle two have no letter.

`tests/parallel/test_collectives.py` checks <A x, y> = <x, A* y> for each in exact arithmetic.

Along an axis of one rank nothing is communicated or copied. Where forward is the identity or the own shard, the result
is a view, and autograd refuses to write into it in place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
import torch.distributed as dist

from shardproof.errors import CannotRunError
from shardproof.worlds.communicator import nonnegative_dim, shard_range, shard_sizes
from shardproof.worlds.padding import pad, stack_padded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from shardproof.parallel.axis import Axis

T = TypeVar("T")

# Plain tensors -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending(Generic[T]):
    """A collective that has started. Its input tensors must not change until `wait` returns."""

    work: dist.Work | None
    finish: Callable[[], T]

    def wait(self) -> T:
        """Wait for the collective and return its result; to be called once."""
        if self.work is not None:
            self.work.wait()
        return self.finish()


def all_gather(shard: Tensor, axis: Axis, *, dim: int, total: int | None = None) -> Tensor:
    """Concatenate every rank's shard along `dim`; every rank gets the full tensor. No autograd.

    Args:
        shard: this rank's shard, of any strides.
        axis: the ranks.
        dim: the tensor dimension that is split.
        total: the length of the full tensor along `dim`. None: all shards are as long as this one; if they are not,
            torch.distributed raises on some rank.

    Raises:
        CannotRunError: the shard is not as long as this rank's share of `total`, or has no dimension `dim`.
    """
    parts = start_all_gather(shard, axis, dim=dim, total=total).wait()
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def reduce_scatter(partial: Tensor, axis: Axis, *, dim: int) -> Tensor:
    """Sum every rank's `partial`, then keep this rank's shard of the sum along `dim`. No autograd.

    Raises:
        CannotRunError: `partial` has no dimension `dim`.
    """
    dim = nonnegative_dim(partial.shape, dim)
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
    """This rank's shard of a replicated tensor along `dim`: a view; nothing is communicated.

    Autograd would set the rest of the tensor's gradient to zero; `take_shard` gathers it from the other ranks.

    Raises:
        CannotRunError: `whole` has no dimension `dim`.
    """
    dim = nonnegative_dim(whole.shape, dim)
    start, stop = shard_range(whole.shape[dim], axis.rank, axis.size)
    return whole.narrow(dim, start, stop - start)


def start_all_gather(shard: Tensor, axis: Axis, *, dim: int, total: int | None = None) -> Pending[tuple[Tensor, ...]]:
    """Start an all-gather; the result is every rank's shard, in rank order, not concatenated. See `all_gather`.

    This rank's own entry is `shard` itself, so work on it need not wait.
    """
    dim = nonnegative_dim(shard.shape, dim)
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
    """Start a reduce-scatter; the result is this rank's shard of the sum over the ranks.

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
    """Start an all-reduce; the result is the sum. Along an axis of one rank it is the argument itself."""
    partial = partial.detach()
    if axis.size == 1:
        return Pending(work=None, finish=lambda: partial)
    if not axis.by_exchange:
        total = partial.clone(memory_format=torch.contiguous_format)
        work = dist.all_reduce(total, group=axis.group, async_op=True)
        return Pending(work=work, finish=lambda: total)
    if axis.size == 2:
        # The bytes of a reduce-scatter and an all-gather in one message; a + b = b + a, bit for bit.
        work, other = _start_swap(partial, partial.shape, axis)
        return Pending(work=work, finish=lambda: other.add_(partial))
    flat = partial.contiguous().view(-1)
    scattered = start_reduce_scatter(flat.split(shard_sizes(flat.numel(), axis.size)), axis, dim=0)

    def finish() -> Tensor:
        return all_gather(scattered.finish(), axis, dim=0, total=flat.numel()).view(partial.shape)

    return Pending(work=scattered.work, finish=finish)


def _start_swap(sent: Tensor, shape: Sequence[int], axis: Axis) -> tuple[dist.Work, Tensor]:
    """Send a tensor to the other of two ranks and receive one of `shape` from it."""
    sent = sent.contiguous().view(-1)
    received = sent.new_empty(shape)
    flat = received.view(-1)
    to, back = sent.numel(), flat.numel()
    sizes, lengths = ([back, 0], [to, 0]) if axis.rank else ([0, back], [0, to])
    return dist.all_to_all_single(flat, sent, sizes, lengths, group=axis.group, async_op=True), received


def _start_exchange(
    parts: Sequence[Tensor], shapes: Sequence[Sequence[int]], axis: Axis
) -> Pending[tuple[Tensor, ...]]:
    """Send each rank its part; the result is each rank's part for this one, in rank order, this rank's own included.

    Args:
        parts: for each rank, in rank order.
        shapes: of the part that each rank sends to this one.
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
    """torch.distributed's all-gather, which takes equal shards only: padded to the first rank's, the longest."""
    padded = pad(shard, dim=dim, length=shapes[0][dim])
    parts = shard.new_empty((axis.size, *shapes[0]))
    work = dist.all_gather_single(parts.view(-1), padded.contiguous().view(-1), group=axis.group, async_op=True)

    def finish() -> tuple[Tensor, ...]:
        return tuple(
            shard if rank == axis.rank else part.narrow(dim, 0, shapes[rank][dim]) for rank, part in enumerate(parts)
        )

    return Pending(work=work, finish=finish)


def _start_reduce_padded(parts: Sequence[Tensor], axis: Axis, dim: int) -> Pending[Tensor]:
    """torch.distributed's reduce-scatter, which takes equal shards only: padded to the first rank's, the longest."""
    own = parts[axis.rank].detach()
    padded = stack_padded([part.detach() for part in parts], dim=dim, length=parts[0].shape[dim])
    total = own.new_empty(parts[0].shape)
    work = dist.reduce_scatter_single(total.view(-1), padded.view(-1), group=axis.group, async_op=True)
    return Pending(work=work, finish=lambda: total.narrow(dim, 0, own.shape[dim]))


def _add_up(parts: Sequence[Tensor]) -> Tensor:
    """The sum in rank order, in new memory."""
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total


def _check_length(shard: Tensor, axis: Axis, dim: int, total: int | None) -> tuple[int, ...]:
    """The length of every rank's shard along `dim`, after a check of this rank's."""
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
    """Identity forward, all-reduce backward: a replicated tensor that each rank uses differently.

    The input of a column-split linear. Without it the gradient lacks the terms of all other ranks.
    """
    if axis.size == 1:
        return x
    return _apply(x, lambda x: x.view_as(x), lambda gradient: sum_partials(gradient, axis))


def sum_gradients_together(tensors: Sequence[Tensor], axis: Axis) -> tuple[Tensor, ...]:
    """Identity forward, one all-reduce backward for all of them: see `sum_gradients`.

    Gradients of different dtypes are summed in the one to which PyTorch promotes them.
    """
    if axis.size == 1:
        return tuple(tensors)
    summed: tuple[Tensor, ...] = _SumGradientsTogether.apply(axis, *tensors)  # type: ignore[no-untyped-call] # torch's
    return summed


def sum_partials(x: Tensor, axis: Axis) -> Tensor:
    """All-reduce forward, identity backward: partial values become their sum, on every rank.

    The output of a row-split linear. Its backward is not an all-reduce: the gradient of the sum is replicated already.
    """
    if axis.size == 1:
        return x
    return _apply(x, lambda x: all_reduce(x, axis), lambda gradient: sum_gradients(gradient, axis))


def gather_shards(x: Tensor, axis: Axis, *, dim: int, total: int | None = None) -> Tensor:
    """All-gather forward, own shard backward: every rank gets the full tensor, and all use it in the same way.

    Where ranks use it differently, take `gather_shards_sum_gradients`. `total` and errors as for `all_gather`.
    """
    if axis.size == 1:
        return x
    return _apply(
        x, lambda x: all_gather(x, axis, dim=dim, total=total), lambda gradient: take_shard(gradient, axis, dim=dim)
    )


def take_shard(x: Tensor, axis: Axis, *, dim: int) -> Tensor:
    """Own shard forward, all-gather backward: each rank keeps its shard of a replicated tensor."""
    if axis.size == 1:
        return x
    total = x.shape[dim]  # not `x` itself: the closure would keep it alive until backward
    return _apply(
        x, lambda x: own_shard(x, axis, dim=dim), lambda gradient: gather_shards(gradient, axis, dim=dim, total=total)
    )


def gather_shards_sum_gradients(x: Tensor, axis: Axis, *, dim: int, total: int | None = None) -> Tensor:
    """All-gather forward, reduce-scatter backward: every rank gets the full tensor, and each uses it differently.

    The input of a column-split linear under sequence parallelism. `total` and errors as for `all_gather`.
    """
    if axis.size == 1:
        return x
    return _apply(
        x,
        lambda x: all_gather(x, axis, dim=dim, total=total),
        lambda gradient: sum_partials_take_shard(gradient, axis, dim=dim),
    )


def sum_partials_take_shard(x: Tensor, axis: Axis, *, dim: int) -> Tensor:
    """Reduce-scatter forward, all-gather backward: each rank keeps its shard of the sum of partial values.

    The output of a row-split linear under sequence parallelism.
    """
    if axis.size == 1:
        return x
    total = x.shape[dim]  # not `x` itself: the closure would keep it alive until backward
    return _apply(
        x,
        lambda x: reduce_scatter(x, axis, dim=dim),
        lambda gradient: gather_shards_sum_gradients(gradient, axis, dim=dim, total=total),
    )


def _apply(x: Tensor, forward: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor]) -> Tensor:
    result: Tensor = _WithAdjoint.apply(x, forward, adjoint)  # type: ignore[no-untyped-call] # torch's
    return result


class _WithAdjoint(torch.autograd.Function):
    """`forward(x)` forward, `adjoint(gradient)` backward, which autograd can differentiate again."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, forward: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.adjoint = adjoint
        return forward(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.adjoint(gradient), None, None


class _SumGradientsTogether(torch.autograd.Function):
    """Identity forward, one all-reduce of all gradients backward, which autograd can differentiate again."""

    @staticmethod
    def forward(ctx: Any, axis: Axis, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.axis = axis
        return tuple(x.view_as(x) for x in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        total = sum_partials(torch.cat([gradient.reshape(-1) for gradient in gradients]), ctx.axis)
        parts = zip(gradients, total.split([gradient.numel() for gradient in gradients]), strict=True)
        return None, *(part.view(gradient.shape).to(gradient.dtype) for gradient, part in parts)
