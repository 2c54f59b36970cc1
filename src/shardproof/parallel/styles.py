"""Styles: the entries of a plan, as values. Each prepares a `Change` and leaves the model unchanged.

Placements are torch's. A `Replicate()` tensor is the same on all ranks, and so is its gradient; of a `Shard(dim)`
tensor each rank has its shard along that dim, cut by `shard_sizes`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from zlib import crc32

from torch import nn

from shardproof.errors import CannotRunError
from shardproof.parallel.conv1d import ColumnConv1D, RowConv1D
from shardproof.parallel.dropout import PositionalDropout
from shardproof.parallel.embedding import split_vocabulary
from shardproof.parallel.heads import check_heads
from shardproof.parallel.linear import FEATURES, REPLICATE, ColumnLinear, RowLinear
from shardproof.parallel.norms import GRADIENT_SUM, sum_gradients_of_parameters
from shardproof.parallel.sharding import Section, Sharding, cut_parameter, split_sections

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor
    from torch.distributed.tensor import Replicate, Shard

    from shardproof.parallel.axis import Axis
    from shardproof.parallel.traffic import Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The module that a style is applied to.

    Attributes:
        name: the module's path, for messages.
        module: unchanged so far.
        parent: the module that holds it; None for the model itself.
        model: the whole model.
        axis: the ranks.
        kv_replicas: from a number of KV heads to the result of `kv_replica_axis`, which all sites share.
    """

    name: str
    module: nn.Module
    parent: nn.Module | None
    model: nn.Module
    axis: Axis
    kv_replicas: Callable[[int], Axis | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A prepared change of a module; `plans._install` carries it out.

    Attributes:
        module: replaces the site's; may be the same.
        install: called with `module` when it is in the model (registers hooks).
        attributes: to be set on the parent.
        traffic: the collectives of one forward and backward, each with the axis along which it runs.
    """

    module: nn.Module
    install: Callable[[nn.Module], object] | None = None
    attributes: Mapping[str, int] = field(default_factory=dict)
    traffic: tuple[tuple[Axis, Traffic], ...] = ()


class Style(Protocol):
    """An entry of a plan for a module."""

    def prepare(self, site: Site) -> Change:
        """Prepare the change; the model stays unchanged.

        Raises:
            CannotRunError: the style does not fit the module, or the module cannot be split so.
        """


@runtime_checkable
class CuttingStyle(Style, Protocol):
    """A style that also fits a bare parameter (experts' weights): it cuts the parameter and communicates nothing."""

    def cut(self, parameter: Tensor, axis: Axis) -> Sharding:
        """The sharding to cut the parameter by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A linear layer or `Conv1D` split by its output features, or experts' weights [experts, O, I] split by O.

    In an attention module with a `head_dim`, heads are not cut, and there may be fewer KV heads than ranks.

    Attributes:
        input: placement of the input; see `ColumnLinear.from_linear`.
        output: placement of the output.
        parts: the number of equal fused parts ([gate; up] has 2), or the parts themselves.
        length: of the full sequence, where `input` is an uneven shard of it.
        input_shared: a `SharedInput` on the parent communicates for all its projections; this layer only multiplies.
        multiple: pad the outputs with zeros, so that each rank's number is a multiple of this; for a head of a padded
            vocabulary (`VocabularyRows`, `VocabularyLoss`). None: no padding.
    """

    input: Replicate | Shard = REPLICATE
    output: Replicate | Shard = FEATURES
    parts: int | tuple[Section, ...] = 1
    length: int | None = None
    input_shared: bool = False
    multiple: int | None = None

    def __post_init__(self) -> None:
        if self.input_shared and (self.input, self.output) != (REPLICATE, FEATURES):
            raise CannotRunError(
                f"Column(input_shared=True, {self.input!r}, {self.output!r}): it only multiplies; leave both out"
            )
        if self.multiple is not None and (self.output, self.parts, self.input_shared) != (FEATURES, 1, False):
            raise CannotRunError("Column(multiple=) is for a head whose output stays split: leave output and parts")

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        axis, features = site.axis, linear_sizes(site, "column")[1]
        if self.multiple is not None:
            head = pad_outputs(self._split(site, None), site, self.multiple)
            return Change(module=head, traffic=((axis, head.traffic),))
        if self.output == REPLICATE:
            module = self._split(site, None)  # the output is gathered in order, so heads may be cut
            return Change(module=module, traffic=() if isinstance(module, nn.Linear) else ((axis, module.traffic),))
        unit = head_width(site, features) or 1
        sections = share_heads(even_sections(features, self.parts, unit, site.name), axis.size, site.name)
        module = self._split(site, sections)
        traffic = () if isinstance(module, nn.Linear) else ((axis, module.traffic),)
        few = min((section.length // section.unit for section in sections if section.shared), default=axis.size)
        kv_replicas = site.kv_replicas(few)
        if kv_replicas is None:
            return Change(module=module, traffic=traffic)
        start = sum(section.length // axis.size for section in sections if not section.shared)
        return Change(
            module=module,
            install=lambda module: sum_gradients_of_parameters(module, kv_replicas, start=start),
            attributes=local_groups(site, few) if len(sections) == 1 else {},
            traffic=(*traffic, (kv_replicas, GRADIENT_SUM)),
        )

    def cut(self, parameter: Tensor, axis: Axis) -> Sharding:
        """Along the output features: the last dim but one, or the only dim of a bias."""
        dim = max(parameter.ndim - 2, 0)
        sections = even_sections(parameter.shape[dim], self.parts, 1, "a parameter")
        return split_sections(parameter.shape, dim, sections, rank=axis.rank, size=axis.size)

    def _split(self, site: Site, sections: tuple[Section, ...] | None) -> ColumnLinear | ColumnConv1D | nn.Linear:
        whole, axis = site.module, site.axis
        if is_conv1d(whole):
            if (self.input, self.output, self.input_shared) != (REPLICATE, FEATURES, False):
                raise CannotRunError(f"{site.name}: a Conv1D is split by columns from Replicate() to Shard(-1) only")
            return ColumnConv1D.from_conv1d(whole, axis, sections=sections)
        assert isinstance(whole, nn.Linear)
        column = ColumnLinear.from_linear(
            whole, axis, input=self.input, output=self.output, length=self.length, sections=sections
        )
        return local_linear(column) if self.input_shared else column


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A linear layer or `Conv1D` split by its input features, or experts' weights [experts, O, I] split by I.

    Attributes:
        input: placement of the input; see `RowLinear.from_linear`.
        output: placement of the output.
        parts: the number of equal fused parts of the input features.
    """

    input: Replicate | Shard = FEATURES
    output: Replicate | Shard = REPLICATE
    parts: int = 1

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        whole, axis = site.module, site.axis
        features = linear_sizes(site, "row")[0]
        sections = None
        if self.input != REPLICATE:
            unit = head_width(site, features) or 1
            if unit > 1:
                check_heads(features // unit, axis.size, shared=False, name=site.name)
            sections = even_sections(features, self.parts, unit, site.name)
        if is_conv1d(whole):
            if (self.input, self.output) != (FEATURES, REPLICATE):
                raise CannotRunError(f"{site.name}: a Conv1D is split by rows from Shard(-1) to Replicate() only")
            conv = RowConv1D.from_conv1d(whole, axis, sections=sections)
            return Change(module=conv, traffic=((axis, conv.traffic),))
        assert isinstance(whole, nn.Linear)
        row = RowLinear.from_linear(whole, axis, input=self.input, output=self.output, sections=sections)
        return Change(module=row, traffic=((axis, row.traffic),))

    def cut(self, parameter: Tensor, axis: Axis) -> Sharding:
        """Along the input features, the last dim."""
        if parameter.ndim < 2:
            raise CannotRunError("a bias is not split by input features: leave it out of the plan")
        sections = even_sections(parameter.shape[-1], self.parts, 1, "a parameter")
        return split_sections(parameter.shape, -1, sections, rank=axis.rank, size=axis.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientAllReduce:
    """A module with replicated parameters that sees only this rank's tokens or heads: its gradients are all-reduced.

    See `sum_gradients_of_parameters`.
    """

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        if not list(site.module.parameters(recurse=False)):
            raise CannotRunError(f"{site.name} is a {type(site.module).__name__} without parameters of its own")
        return Change(
            module=site.module,
            install=lambda module: sum_gradients_of_parameters(module, site.axis),
            traffic=((site.axis, GRADIENT_SUM),),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropout:
    """A dropout whose mask does not depend on the split; see `PositionalDropout.from_dropout`.

    Attributes:
        seed: for an `nn.Dropout`, which has none; each layer's own seed is made of it and the layer's path.
        placement: of the input.
        total: the full input's length along the split dim, if ranks hold unequal shards.
    """

    seed: int | None = None
    placement: Replicate | Shard = REPLICATE
    total: int | None = None

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        whole = site.module
        if not isinstance(whole, PositionalDropout) and not is_plain(whole, nn.Dropout):
            raise CannotRunError(
                f"{site.name} is a {type(whole).__name__}; needed is an nn.Dropout or a PositionalDropout"
            )
        assert isinstance(whole, PositionalDropout | nn.Dropout)
        seed = None if self.seed is None else (self.seed * 2**32 + crc32(site.name.encode())) % 2**63
        placed = PositionalDropout.from_dropout(whole, site.axis, seed=seed, placement=self.placement, total=self.total)
        return Change(module=placed)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAttributes:
    """Integer attributes that count what is split (a width, heads): each is divided by the number of ranks."""

    names: tuple[str, ...]

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        local = {}
        for name in self.names:
            value = getattr(site.module, name, None)
            if not isinstance(value, int) or value % site.axis.size:
                raise CannotRunError(
                    f"{site.name}.{name} is {value!r}; needed is a multiple of the number of ranks, {site.axis.size}"
                )
            local[name] = value // site.axis.size
        return Change(module=site.module, install=lambda module: vars(module).update(local))


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicated:
    """The module unchanged, the same on every rank."""

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        return Change(module=site.module)


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module has the forward of torch's own class and no parametrization; others may compute otherwise."""
    return type(module).forward is kind.forward and not hasattr(module, "parametrizations")


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' `Conv1D`, a linear layer with its weight transposed."""
    return type(module).__name__ == "Conv1D" and {"nf", "nx"} <= vars(module).keys()


def linear_sizes(site: Site, how: str) -> tuple[int, int]:
    """The input and output features of a linear layer or `Conv1D`.

    Raises:
        CannotRunError: the module is neither.
    """
    if is_plain(site.module, nn.Linear):
        return site.module.get_parameter("weight").shape[1], site.module.get_parameter("weight").shape[0]
    if is_conv1d(site.module):
        inputs, outputs = site.module.get_parameter("weight").shape
        return inputs, outputs
    raise CannotRunError(
        f"{site.name} is a {type(site.module).__name__}; split by {how}s are nn.Linear and transformers' Conv1D, not "
        "modules with another forward or parametrized weights"
    )


def head_width(site: Site, features: int) -> int | None:
    """The `head_dim` of the module's parent, if it has one that divides the features; else None."""
    width = getattr(site.parent, "head_dim", None)
    return width if isinstance(width, int) and width > 0 and features % width == 0 else None


def share_heads(sections: tuple[Section, ...], size: int, name: str) -> tuple[Section, ...]:
    """The sections, with `shared` set where there are fewer heads than ranks: KV heads, last or alone.

    Raises:
        CannotRunError: the ranks cannot hold the heads.
    """
    shared = []
    for section in sections:
        if section.unit > 1:
            may_share = section.shared or len(sections) == 1
            check_heads(section.length // section.unit, size, shared=may_share, name=name)
        shared.append(section.unit > 1 and section.length // section.unit < size)
    if shared != sorted(shared):
        raise CannotRunError(f"{name}: fused parts that ranks share must come after those that they split")
    return tuple(replace(section, shared=here) for section, here in zip(sections, shared, strict=True))


def local_groups(site: Site, heads: int) -> dict[str, int]:
    """The parent's `num_key_value_groups` for one rank, where ranks replicate KV heads: fewer queries use each replica.

    Raises:
        CannotRunError: the parent has no such attribute, or the ranks do not divide it evenly.
    """
    groups = getattr(site.parent, "num_key_value_groups", None)
    if not isinstance(groups, int) or groups * heads % site.axis.size:
        raise CannotRunError(
            f"{site.name}: {heads} KV heads on {site.axis.size} ranks are replicated only in an attention whose "
            f"num_key_value_groups counts the queries of each; it is {groups!r}"
        )
    return {"num_key_value_groups": groups * heads // site.axis.size}


def even_sections(features: int, parts: int | tuple[Section, ...], unit: int, name: str) -> tuple[Section, ...]:
    """The fused parts of a dim as sections.

    Raises:
        CannotRunError: the features do not divide into so many equal parts of whole units.
    """
    if isinstance(parts, tuple):
        return parts
    if parts < 1 or features % (parts * unit):
        raise CannotRunError(f"{name}: {features} features are not {parts} parts of whole units of {unit}")
    return tuple(Section(length=features // parts, unit=unit) for _ in range(parts))


def pad_outputs(head: nn.Module, site: Site, multiple: int) -> ColumnLinear:
    """Replace a column-split layer's parameters by padded shards of the full layer's.

    Raises:
        CannotRunError: the layer is no nn.Linear, or a rank would hold padding only.
    """
    if not isinstance(head, ColumnLinear):
        raise CannotRunError(f"{site.name} is a {type(site.module).__name__}; only an nn.Linear can be padded")
    for name, parameter in site.module.named_parameters(recurse=False):
        padded = split_vocabulary(parameter.shape, site.axis, multiple=multiple)
        head.register_parameter(name, cut_parameter(parameter, padded))
    return head


def local_linear(column: ColumnLinear) -> nn.Linear:
    """An `nn.Linear` with this rank's rows, which communicates nothing."""
    local = nn.Linear(1, 1, bias=False, device="meta")
    local.in_features, local.out_features = column.weight.shape[1], column.weight.shape[0]
    local.weight, local.bias = column.weight, column.bias  # type: ignore[assignment] # torch's own is None without one
    return local
