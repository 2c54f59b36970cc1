"""Linear layers whose weight is stored transposed, [I, O], as transformers' `Conv1D` (GPT-2) has it.

The same products and collectives as `ColumnLinear` and `RowLinear` between a replicated input and a replicated output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from shardproof.parallel.products import Split, multiply_columns, multiply_rows
from shardproof.parallel.sharding import Section, cut_parameter, replicated, split_sections
from shardproof.parallel.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from shardproof.parallel.axis import Axis


class ColumnConv1D(nn.Module):
    """This rank's output features, z = x W + b forward; dx = dz W^T all-reduced backward.

    Made by `from_conv1d`; `weight` [I, o] and `bias` [o] keep their names.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter, axis: Axis) -> None:
        super().__init__()
        self.weight, self.bias, self.axis = weight, bias, axis

    @classmethod
    def from_conv1d(cls, whole: nn.Module, axis: Axis, *, sections: Sequence[Section] | None = None) -> ColumnConv1D:
        """This rank's shard of an ordinary `Conv1D`; `sections` are its fused output features, each cut by itself.

        Raises:
            CannotRunError: the sections do not fit.
        """
        weight, bias = whole.get_parameter("weight"), whole.get_parameter("bias")
        cut = sections or [Section(length=weight.shape[1])]
        weight = cut_parameter(weight, split_sections(weight.shape, 1, cut, rank=axis.rank, size=axis.size))
        bias = cut_parameter(bias, split_sections(bias.shape, 0, cut, rank=axis.rank, size=axis.size))
        return cls(weight, bias, axis)

    @property
    def traffic(self) -> Traffic:
        """The collectives of one forward and backward."""
        return Traffic(backward=("all_reduce",))

    def forward(self, x: Tensor) -> Tensor:
        """From x [..., I] to z [..., o]."""
        return multiply_columns(x, self.weight.T, self.bias, Split(axis=self.axis, dim=None, features=None))


class RowConv1D(nn.Module):
    """This rank's input features, z = x W + b all-reduced forward; dx = dz W^T backward.

    Made by `from_conv1d`; `weight` [i, O] and `bias` [O] keep their names.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter, axis: Axis) -> None:
        super().__init__()
        self.weight, self.bias, self.axis = weight, bias, axis

    @classmethod
    def from_conv1d(cls, whole: nn.Module, axis: Axis, *, sections: Sequence[Section] | None = None) -> RowConv1D:
        """This rank's shard of an ordinary `Conv1D`; `sections` are its fused input features, each cut by itself.

        Raises:
            CannotRunError: the sections do not fit.
        """
        weight, bias = whole.get_parameter("weight"), whole.get_parameter("bias")
        cut = sections or [Section(length=weight.shape[0])]
        weight = cut_parameter(weight, split_sections(weight.shape, 0, cut, rank=axis.rank, size=axis.size))
        bias = cut_parameter(bias, replicated(bias.shape, rank=axis.rank, size=axis.size))
        return cls(weight, bias, axis)

    @property
    def traffic(self) -> Traffic:
        """The collectives of one forward and backward."""
        return Traffic(forward=("all_reduce",))

    def forward(self, x: Tensor) -> Tensor:
        """From x [..., i] to z [..., O]."""
        return multiply_rows(x, self.weight.T, self.bias, Split(axis=self.axis, dim=None, features=None))
