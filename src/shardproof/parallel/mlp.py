"""MLPs, plain and gated, on one device and split over ranks: up by columns, down by rows.

One collective forward and one backward; the activation between needs none. Source: Shoeybi et al., "Megatron-LM"
(arXiv:1909.08053), section 3; Shazeer, "GLU variants" (arXiv:2002.05202), for the gate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import Replicate, Shard

from shardproof.parallel.linear import ColumnLinear, RowLinear
from shardproof.parallel.sharding import Section

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.parallel.axis import Axis
    from shardproof.parallel.traffic import Traffic

    Activation = Callable[[Tensor], Tensor]


class MLP(nn.Module):
    """down(activation(up x)). `from_mlp` splits it; the ranks need not divide its width.

    Attributes:
        up: [h to w], or this rank's shard of w.
        down: [w to h].
    """

    def __init__(self, up: nn.Linear | ColumnLinear, down: nn.Linear | RowLinear, activation: Activation) -> None:
        super().__init__()
        self.up, self.down, self.activation = up, down, activation

    @classmethod
    def of_sizes(cls, hidden: int, width: int, *, bias: bool = True, activation: Activation = F.gelu) -> MLP:
        """An MLP on one device, initialised as `nn.Linear` is."""
        return cls(nn.Linear(hidden, width, bias), nn.Linear(width, hidden, bias), activation)

    @classmethod
    def from_mlp(
        cls,
        mlp: MLP,
        axis: Axis,
        *,
        placement: Replicate | Shard = Replicate(),  # noqa: B008 - an immutable value
        length: int | None = None,
    ) -> MLP:
        """This rank's shard of an MLP on one device, which is left unchanged.

        Args:
            mlp: the full one, the same on every rank.
            axis: the ranks.
            placement: of input and output: `Replicate()`, or `Shard(dim)` along the sequence.
            length: of the full sequence, where the ranks' shards of it are not equally long.
        """
        assert isinstance(mlp.up, nn.Linear)
        assert isinstance(mlp.down, nn.Linear)
        up = ColumnLinear.from_linear(mlp.up, axis, input=placement, length=length)
        return cls(up, RowLinear.from_linear(mlp.down, axis, output=placement), mlp.activation).train(mlp.training)

    @property
    def traffic(self) -> Traffic:
        """The collectives of one forward and backward."""
        return add_traffic(self.up, self.down)

    def forward(self, x: Tensor) -> Tensor:
        """From x [..., h] to [..., h]; both full, or both this rank's shard of the sequence."""
        out: Tensor = self.down(self.activation(self.up(x)))
        return out


class GatedMLP(nn.Module):
    """down(activation(gate x) * up x), with [gate; up] one projection; `from_mlp` splits it.

    Each half is cut by itself. Cut as one, the first ranks would get only gate rows; no gradient norm would show it.

    Attributes:
        gate_up: [h to 2 w], all of gate, then all of up; or this rank's shard of each.
        down: [w to h].
    """

    def __init__(self, gate_up: nn.Linear | ColumnLinear, down: nn.Linear | RowLinear, activation: Activation) -> None:
        super().__init__()
        self.gate_up, self.down, self.activation = gate_up, down, activation

    @classmethod
    def of_sizes(cls, hidden: int, width: int, *, bias: bool = False, activation: Activation = F.silu) -> GatedMLP:
        """An MLP on one device, initialised as `nn.Linear` is."""
        return cls(nn.Linear(hidden, 2 * width, bias), nn.Linear(width, hidden, bias), activation)

    @classmethod
    def from_mlp(
        cls,
        mlp: GatedMLP,
        axis: Axis,
        *,
        placement: Replicate | Shard = Replicate(),  # noqa: B008 - an immutable value
        length: int | None = None,
    ) -> GatedMLP:
        """This rank's shard of an MLP on one device; arguments as for `MLP.from_mlp`."""
        assert isinstance(mlp.gate_up, nn.Linear)
        assert isinstance(mlp.down, nn.Linear)
        halves = [Section(length=mlp.down.in_features)] * 2
        gate_up = ColumnLinear.from_linear(mlp.gate_up, axis, input=placement, length=length, sections=halves)
        return cls(gate_up, RowLinear.from_linear(mlp.down, axis, output=placement), mlp.activation).train(mlp.training)

    @property
    def traffic(self) -> Traffic:
        """The collectives of one forward and backward."""
        return add_traffic(self.gate_up, self.down)

    def forward(self, x: Tensor) -> Tensor:
        """From x [..., h] to [..., h]; both full, or both this rank's shard of the sequence."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(self.activation(gate) * up)
        return out


def add_traffic(first: nn.Module, last: nn.Module) -> Traffic:
    """The collectives of a column-split layer followed by a row-split one."""
    assert isinstance(first, ColumnLinear)
    assert isinstance(last, RowLinear)
    return first.traffic + last.traffic
