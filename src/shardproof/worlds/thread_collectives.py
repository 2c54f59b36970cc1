"""What each collective computes, for ranks that are threads: from what every rank gives to what every rank gets.

Each function takes a list over ranks of lists of tensors, and returns new tensors, so that a rank may change its inputs
as soon as its own call has ended, and a result may be copied into a view of an operand (Megatron's gradient buffers).
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    Tensors = Sequence[Tensor]

_REDUCTIONS = ("SUM", "AVG", "PREMUL_SUM", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR")
_SCATTERED = ("SUM", "AVG", "PREMUL_SUM")
_BITWISE = {"BAND": torch.bitwise_and, "BOR": torch.bitwise_or, "BXOR": torch.bitwise_xor}


def name_reduction(op: Any) -> str:
    """'SUM', from a value of PyTorch's enumeration or an op that holds one."""
    return str((op if isinstance(op, dist.ReduceOp.RedOpType) else op.op).name)


def all_reduce(given: Sequence[Tensors], op: Any) -> list[Tensors]:
    """Every rank gets the reduction over ranks, tensor by tensor."""
    kind = name_reduction(op)
    if kind not in _REDUCTIONS:
        raise CannotRunError(f"all-reduce by {kind} is not simulated; {', '.join(_REDUCTIONS)} are")
    reduced = [_reduce(list(tensors), kind, op) for tensors in zip(*given, strict=True)]
    return [reduced] * len(given)


def reduce_scatter(given: Sequence[Tensors], op: Any) -> list[Tensors]:
    """Rank r gets the sum, in rank order, of every rank's tensor r."""
    kind = name_reduction(op)
    if kind not in _SCATTERED:
        raise CannotRunError(f"reduce-scatter by {kind} is not simulated; {', '.join(_SCATTERED)} are")
    return [[_sum_in_rank_order(list(shards), kind, op)] for shards in zip(*given, strict=True)]


def all_gather(given: Sequence[Tensors]) -> list[Tensors]:
    """Every rank gets every rank's tensors, in rank order."""
    gathered = [tensor.clone() for tensors in given for tensor in tensors]
    return [gathered] * len(given)


def all_to_all(given: Sequence[Tensors]) -> list[Tensors]:
    """Rank r gets every rank's tensor r, in rank order."""
    return [[tensors[rank].clone() for tensors in given] for rank in range(len(given))]


def broadcast(given: Sequence[Tensors], root: int) -> list[Tensors]:
    """Every rank but the root gets the root's tensors; the root keeps its own."""
    sent = [tensor.clone() for tensor in given[root]]
    return [[] if rank == root else sent for rank in range(len(given))]


def reduce_to(given: Sequence[Tensors], op: Any, root: int) -> list[Tensors]:
    """The root gets the reduction over ranks, the others nothing."""
    reduced = all_reduce(given, op)[root]
    return [reduced if rank == root else [] for rank in range(len(given))]


def gather(given: Sequence[Tensors], root: int) -> list[Tensors]:
    """The root gets every rank's tensor, in rank order, the others nothing."""
    gathered = all_gather(given)[root]
    return [gathered if rank == root else [] for rank in range(len(given))]


def scatter(given: Sequence[Tensors], root: int) -> list[Tensors]:
    """Rank r gets the root's tensor r."""
    return [[tensor.clone()] for tensor in given[root]]


def _reduce(tensors: list[Tensor], kind: str, op: Any) -> Tensor:
    if kind in _BITWISE:
        combine: Callable[..., Tensor] = _BITWISE[kind]
        return reduce(combine, tensors)
    if kind == "PREMUL_SUM":
        return _sum_in_rank_order(tensors, kind, op)
    together = torch.stack(tensors)
    if kind == "SUM":
        return together.sum(dim=0)
    if kind == "AVG":
        return together.mean(dim=0)
    if kind == "PRODUCT":
        return together.prod(dim=0)
    return (together.min(dim=0) if kind == "MIN" else together.max(dim=0)).values


def _sum_in_rank_order(shards: list[Tensor], kind: str, op: Any) -> Tensor:
    if kind == "PREMUL_SUM":
        factor = op.__getstate__()[1]  # there is no public accessor
        shards = [shard * factor for shard in shards]
    total = shards[0].clone()
    for shard in shards[1:]:
        total += shard
    return total / len(shards) if kind == "AVG" else total
