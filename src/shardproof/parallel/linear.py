"""A linear layer split over ranks, by its output features or by its input features, with the backward by hand.

Each is built from an ordinary `nn.Linear` and holds its shard of the same weights under the same names. Input and
output placements are torch's:

    layer          its            is              forward            backward
    ColumnLinear   input          Replicate()     -                  all-reduce
                                  Shard(dim)      all-gather         reduce-scatter
                   output         Shard(-1)       -                  -
                                  Replicate()     all-gather         -
    RowLinear      input          Shard(-1)       -                  -
                                  Replicate()     -                  all-gather
                   output         Replicate()     all-reduce         -
                                  Shard(dim)      reduce-scatter     all-gather

An input that requires no gradient needs no collective backward. Weight gradients are computed while the collective of
the input's gradient runs. I and O are the full layer's input and output features, i and o this rank's share of them.
Source: Shoeybi et al., "Megatron-LM" (arXiv:1909.08053), section 3, and Korthikanti et al. (arXiv:2205.05198), section
4.2.2, for shards of the sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.distributed.tensor import Replicate, Shard

from shardproof.errors import CannotRunError
from shardproof.parallel.products import Split, multiply_columns, multiply_rows
from shardproof.parallel.sharding import Section, cut_parameter, replicated, split_sections
from shardproof.parallel.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from shardproof.parallel.axis import Axis

REPLICATE = Replicate()
FEATURES = Shard(-1)


class ColumnLinear(nn.Module):
    """Linear split by output features, z = x W^T + b: each rank has a shard of the rows of W, and of b.

    `from_linear` makes one from an ordinary layer and documents the options; the table above lists the collectives.

    Attributes:
        weight: [o, I], this rank's rows.
        bias: [o], or None.
        out_features: O, of the full layer.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        axis: Axis,
        *,
        out_features: int,
        input: Replicate | Shard = REPLICATE,  # noqa: A002 - torch's word for it
        output: Replicate | Shard = FEATURES,
        length: int | None = None,
    ) -> None:
        super().__init__()
        _check_placement(
            "ColumnLinear", "input", input, isinstance(input, Replicate | Shard), "Replicate() or Shard(dim)"
        )
        _check_placement("ColumnLinear", "output", output, output in (REPLICATE, FEATURES), "Shard(-1) or Replicate()")
        self.weight, self.bias, self.axis = weight, bias, axis
        self.in_features, self.out_features = weight.shape[1], out_features
        self.input, self.output = input, output
        dim = input.dim if isinstance(input, Shard) else None
        self.split = Split(axis=axis, dim=dim, length=length, features=out_features if output == REPLICATE else None)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        axis: Axis,
        *,
        input: Replicate | Shard = REPLICATE,  # noqa: A002 - torch's word for it
        output: Replicate | Shard = FEATURES,
        length: int | None = None,
        sections: Sequence[Section] | None = None,
    ) -> ColumnLinear:
        """This rank's shard of an ordinary linear layer, in new memory.

        Args:
            linear: the full layer, the same on every rank.
            axis: the ranks.
            input: `Replicate()`: every rank has x [..., I]. `Shard(-1)`: a shard of its features. `Shard(dim)`: a shard
                along another dim, the sequence.
            output: `Shard(-1)`: each rank gets its shard z [..., o]. `Replicate()`: every rank gets z [..., O].
            length: of the full sequence, where the ranks' shards of it are not equally long.
            sections: the fused parts of the output features, each cut by itself; needs output `Shard(-1)`.

        Raises:
            CannotRunError: a placement is none of these, or the sections do not fit.
        """
        if sections is not None and output != FEATURES:
            raise CannotRunError(f"ColumnLinear with sections and output {output}: sections are cut, so keep Shard(-1)")
        cut = sections or [Section(length=linear.out_features)]
        weight, bias = (
            p if p is None else cut_parameter(p, split_sections(p.shape, 0, cut, rank=axis.rank, size=axis.size))
            for p in (linear.weight, linear.bias)
        )
        assert weight is not None
        features = linear.out_features
        return cls(weight, bias, axis, out_features=features, input=input, output=output, length=length)

    @property
    def traffic(self) -> Traffic:
        """The collectives of one forward and backward."""
        entering = Traffic(backward=("all_reduce",))
        if isinstance(self.input, Shard):
            entering = Traffic(forward=("all_gather",), backward=("reduce_scatter",))
        return entering + Traffic(forward=("all_gather",) if self.output == REPLICATE else ())

    def forward(self, x: Tensor) -> Tensor:
        """From x [..., I], or its shard by `input`, to z [..., o], or [..., O] if `output` is `Replicate()`.

        Raises:
            CannotRunError: x has another number of features, or is not this rank's shard of the sequence.
        """
        return multiply_columns(x, self.weight, self.bias, self.split)

    def extra_repr(self) -> str:
        """What `print` shows of the layer."""
        return _describe(self)


class RowLinear(nn.Module):
    """Linear split by input features, z = x W^T + b: each rank has a shard of the columns of W, and all of b.

    `from_linear` makes one from an ordinary layer and documents the options; the table above lists the collectives.
    Only the first rank adds the bias to its partial sum, so it is added once.

    Attributes:
        weight: [O, i], this rank's columns.
        bias: [O], the same on every rank, or None.
        in_features: I, of the full layer.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        axis: Axis,
        *,
        in_features: int,
        input: Replicate | Shard = FEATURES,  # noqa: A002 - torch's word for it
        output: Replicate | Shard = REPLICATE,
    ) -> None:
        super().__init__()
        _check_placement("RowLinear", "input", input, input in (REPLICATE, FEATURES), "Shard(-1) or Replicate()")
        _check_placement(
            "RowLinear", "output", output, isinstance(output, Replicate | Shard), "Replicate() or Shard(dim)"
        )
        self.weight, self.bias, self.axis = weight, bias, axis
        self.in_features, self.out_features = in_features, weight.shape[0]
        self.input, self.output = input, output
        dim = output.dim if isinstance(output, Shard) else None
        self.split = Split(axis=axis, dim=dim, features=in_features if input == REPLICATE else None)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        axis: Axis,
        *,
        input: Replicate | Shard = FEATURES,  # noqa: A002 - torch's word for it
        output: Replicate | Shard = REPLICATE,
        sections: Sequence[Section] | None = None,
    ) -> RowLinear:
        """This rank's shard of an ordinary linear layer, in new memory.

        Args:
            linear: the full layer, the same on every rank.
            axis: the ranks.
            input: `Shard(-1)`: each rank has its shard of the features, x [..., i]. `Replicate()`: x [..., I].
            output: `Replicate()`: every rank gets z [..., O]. `Shard(dim)`: its shard along any dim, the sequence or
                the last.
            sections: the fused parts of the input features, each cut by itself; needs input `Shard(-1)`.

        Raises:
            CannotRunError: a placement is none of these, or the sections do not fit.
        """
        if sections is not None and input != FEATURES:
            raise CannotRunError(f"RowLinear with sections and input {input}: sections come cut, so keep Shard(-1)")
        cut = sections or [Section(length=linear.in_features)]
        position = {"rank": axis.rank, "size": axis.size}
        weight = cut_parameter(linear.weight, split_sections(linear.weight.shape, 1, cut, **position))
        bias = None if linear.bias is None else cut_parameter(linear.bias, replicated(linear.bias.shape, **position))
        return cls(weight, bias, axis, in_features=linear.in_features, input=input, output=output)

    @property
    def traffic(self) -> Traffic:
        """The collectives of one forward and backward."""
        leaving = Traffic(forward=("all_reduce",))
        if isinstance(self.output, Shard):
            leaving = Traffic(forward=("reduce_scatter",), backward=("all_gather",))
        return Traffic(backward=("all_gather",) if self.input == REPLICATE else ()) + leaving

    def forward(self, x: Tensor) -> Tensor:
        """From x [..., i], or [..., I] if `input` is `Replicate()`, to z [..., O], or its shard by `output`.

        Raises:
            CannotRunError: x has another number of features.
        """
        return multiply_rows(x, self.weight, self.bias, self.split)

    def extra_repr(self) -> str:
        """What `print` shows of the layer."""
        return _describe(self)


def _check_placement(layer: str, name: str, given: object, right: bool, needed: str) -> None:
    if not right:
        raise CannotRunError(f"{layer} with {name} {given}: give {needed}")


def _describe(layer: ColumnLinear | RowLinear) -> str:
    return (
        f"in_features={layer.in_features}, out_features={layer.out_features}, bias={layer.bias is not None}, "
        f"input={layer.input}, output={layer.output}, rank {layer.axis.rank} of {layer.axis.size} along "
        f"{layer.axis.name!r}"
    )
