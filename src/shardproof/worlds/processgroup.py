"""A communicator over a process group of `torch.distributed`.

With gloo, all-gathers are bitwise those of the simulated world, and so is every sum over two ranks, as a + b = b + a.
Over three and more ranks gloo's ring adds in another order: `bound_reordering` bounds the difference of two orders.
A message is preceded by the sender's call in words, because gloo hands over the bytes of a tensor of another dtype.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from shardproof.errors import CannotRunError
from shardproof.worlds.call import (
    Call,
    call_all_gather,
    call_all_reduce,
    call_receive,
    call_reduce_scatter,
    call_send,
    copy_for_one_rank,
)
from shardproof.worlds.communicator import shard_sizes
from shardproof.worlds.diagnosis import describe_misfit
from shardproof.worlds.padding import pad, stack_padded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor


_GLOO = "gloo/transport/"  # in what gloo says of a connection that another rank has closed
_HEADER_BYTES = 512  # of a message: the sender's call in words


class CollectiveFailedError(CannotRunError):
    """A collective broke off, most often because another rank has ended: seldom the first failure of a run."""

    def __init__(self, call: object, error: Exception) -> None:
        # gloo's text begins with a position in its sources and ends with advice; the reason stands between.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = re.sub(r"^\[[^]]*\] *", "", lines[0]).split(". This is typically")[0]
        super().__init__(f"{call}: {reason}")
        self.call = str(call)


def is_effect(error: BaseException | None) -> bool:
    """Whether a collective or a message broke off, of ours or of the user's own code: another rank has failed.

    What PyTorch raises from such an error, as its pipelines do, is one too.
    """
    while error is not None:
        if isinstance(error, CollectiveFailedError) or _GLOO in str(error).partition("\n")[0]:
            return True
        error = error.__cause__
    return False


def say_nothing(call: Call | None = None) -> None:
    """Ignore an announced collective or a heartbeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGroupCommunicator:
    """See `Communicator`; the backend of `group` must fit the tensors' device (gloo, or nccl for CUDA).

    `announce` is called with each collective or message before it begins, and with None after it. Code whose
    collectives bypass this class (as DTensor's do) calls `beat` from time to time; otherwise a spawned world takes it
    for hung.
    """

    group: dist.ProcessGroup
    announce: Callable[[Call | None], None] = say_nothing
    beat: Callable[[], None] = say_nothing

    @property
    def rank(self) -> int:
        return self.group.rank()

    @property
    def size(self) -> int:
        return self.group.size()

    @torch.no_grad()
    def all_gather(self, shard: Tensor, *, dim: int, total: int, name: str) -> Tensor:
        size = self.size
        call = call_all_gather(shard, dim=dim, total=total, name=name, rank=self.rank, size=size)
        if size == 1:
            return copy_for_one_rank(shard)
        # Every shard is padded to the longest: gloo and nccl gather equal parts only.
        lengths = shard_sizes(total, size)
        shard = pad(shard, dim=dim % shard.ndim, length=max(lengths))
        part = shard.shape
        parts = shard.new_empty((size, *part))
        with self._announced(call):
            dist.all_gather_single(parts.view(-1), shard.contiguous().view(-1), group=self.group)
        if dim % len(part) == 0 and min(lengths) == max(lengths):
            return parts.view(call.shape)
        return torch.cat([parts[rank].narrow(dim, 0, length) for rank, length in enumerate(lengths)], dim)

    @torch.no_grad()
    def reduce_scatter(self, partial: Tensor, *, dim: int, name: str) -> Tensor:
        size = self.size
        call = call_reduce_scatter(partial, dim=dim, name=name)
        if size == 1:
            return copy_for_one_rank(partial)
        lengths = shard_sizes(partial.shape[dim], size)
        if dim % partial.ndim == 0 and min(lengths) == max(lengths):
            parts = partial.contiguous().view(size, max(lengths), *partial.shape[1:])
        else:
            parts = stack_padded(partial.split(lengths, dim), dim=dim % partial.ndim, length=max(lengths))
        shard = partial.new_empty(parts.shape[1:])
        with self._announced(call):
            dist.reduce_scatter_single(shard.view(-1), parts.view(-1), group=self.group)
        return shard.narrow(dim, 0, lengths[self.rank]).contiguous()

    @torch.no_grad()
    def all_reduce(self, partial: Tensor, *, name: str) -> Tensor:
        call = call_all_reduce(partial, name=name)
        total = copy_for_one_rank(partial)
        if self.size > 1:
            with self._announced(call):
                dist.all_reduce(total, group=self.group)
        return total

    @torch.no_grad()
    def send(self, tensor: Tensor, *, to: int, name: str) -> None:
        call = call_send(tensor, to=to, name=name, rank=self.rank, size=self.size)
        text = str(call).encode()[:_HEADER_BYTES].ljust(_HEADER_BYTES)
        header = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(tensor.device)
        with self._announced(call):
            dist.send(header, group=self.group, group_dst=to)
            dist.send(tensor.contiguous(), group=self.group, group_dst=to)

    @torch.no_grad()
    def receive(self, into: Tensor, *, source: int, name: str) -> Tensor:
        call = call_receive(into, source=source, name=name, rank=self.rank, size=self.size)
        header = torch.empty(_HEADER_BYTES, dtype=torch.uint8, device=into.device)
        with self._announced(call):
            dist.recv(header, group=self.group, group_src=source)
            sent = bytes(header.tolist()).decode(errors="replace").rstrip()
            fitting = call_send(into, to=self.rank, name=name, rank=source, size=self.size)
            if sent.encode() != str(fitting).encode()[:_HEADER_BYTES].rstrip():
                raise CannotRunError(describe_misfit(source, sent, self.rank, call))
            value = into if into.is_contiguous() else torch.empty_like(into, memory_format=torch.contiguous_format)
            dist.recv(value, group=self.group, group_src=source)
        return into if value is into else into.copy_(value)

    @contextmanager
    def _announced(self, call: Call) -> Iterator[None]:
        self.announce(call)
        try:
            yield
        except RuntimeError as error:
            raise CollectiveFailedError(call, error) from error
        self.announce(None)


def bound_reordering(parts: list[Tensor]) -> Tensor:
    """The largest possible difference, by element in float64, of two sums of the same parts in different orders.

    Each sum of N numbers is within (N-1) u / (1 - (N-1) u) of the exact one, times the sum of magnitudes, where u is
    half the distance from 1 to the next number of the dtype (Higham, Accuracy and Stability of Numerical Algorithms,
    section 4.2).
    """
    steps = (len(parts) - 1) * torch.finfo(parts[0].dtype).eps / 2
    magnitudes = torch.stack([part.double().abs() for part in parts]).sum(0)
    return 2 * steps / (1 - steps) * magnitudes
