"""Reduce-scatter among ranks that are threads, in place of the one that PyTorch keeps for its own tests.

PyTorch's writes a rank's result before all operands are read, which is wrong where a result is a view of its own
operand (Megatron's gradient buffers); and it lacks PREMUL_SUM, with which FSDP2 divides gradients by a factor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = ("SUM", "AVG", "PREMUL_SUM")


class ReduceScatter:
    """A collective as PyTorch's group for threads calls it: `work` gets every rank's tensors, in rank order."""

    def __init__(self, op: Any) -> None:
        self.op = op
        self._kind = (op if isinstance(op, dist.ReduceOp.RedOpType) else op.op).name
        if self._kind not in _KINDS:
            raise NotImplementedError(f"reduce-scatter by {self._kind} is not simulated; {', '.join(_KINDS)} are")

    @torch.no_grad()
    def work(self, data: list[Any]) -> None:
        """Sum shard by shard, in rank order; then write each rank's result."""
        operands = [shards[0] for _, shards in data]
        results = [self._reduced([shards[i] for shards in operands]) for i in range(len(data))]
        for (outputs, _), result in zip(data, results, strict=True):
            outputs[0].detach().copy_(result)

    def _reduced(self, shards: list[Tensor]) -> Tensor:
        if self._kind == "PREMUL_SUM":
            factor = self.op.__getstate__()[1]  # there is no public accessor
            shards = [shard * factor for shard in shards]
        total = shards[0].clone()
        for shard in shards[1:]:
            total += shard
        return total / len(shards) if self._kind == "AVG" else total
