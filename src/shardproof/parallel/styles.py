"""Styles: what a plan may say of a module, as values. Each works out a `Change` without touching the model.

Placements are torch's. What is `Replicate()` is the same on all ranks and so is its gradient; what is `Shard(dim)` is
this rank's part along that dim, cut by `shard_sizes`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from zlib import crc32

from torch import nn
from torch.distributed.tensor import Replicate, Shard

from shardproof.errors import CannotRunError
from shardproof.parallel.conv1d import ColumnConv1D, RowConv1D
from shardproof.parallel.dropout import PlacedDropout
from shardproof.parallel.embedding import split_vocabulary
from shardproof.parallel.heads import check_heads
from shardproof.parallel.linear import ColumnLinear, RowLinear
from shardproof.parallel.norms import REPLICATED_IN_PARTS, sum_gradients_of_parameters
from shardproof.parallel.sharding import Section, Sharding, cut_parameter, split_sections

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from shardproof.parallel.axis import Axis
    from shardproof.parallel.traffic import Traffic

REPLICATE, FEATURES = Replicate(), Shard(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a style is applied.

    Attributes:
        name: the module's path, for messages.
        module: as it is.
        parent: the module that holds it; None for the model itself.
        model: the whole.
        axis: the ranks.
        sharers: the ranks that hold the same one of so many KV heads, as `axis_of_sharers`.
    """

    name: str
    module: nn.Module
    parent: nn.Module | None
    model: nn.Module
    axis: Axis
    sharers: Callable[[int], Axis | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a style will do to a module, worked out beforehand.

    Attributes:
        module: takes the place of the site's; may be the same.
        install: what is done to `module` when it is in place (hooks).
        attributes: of the parent, set to these values.
        traffic: the collectives of one forward and backward, and the ranks among which they run.
    """

    module: nn.Module
    install: Callable[[nn.Module], object] | None = None
    attributes: Mapping[str, int] = field(default_factory=dict)
    traffic: tuple[tuple[Axis, Traffic], ...] = ()


class Style(Protocol):
    """What a plan says of a module."""

    def prepare(self, site: Site) -> Change:
        """Work out the change, touching nothing.

        Raises:
            CannotRunError: the module is not of a kind that the style fits, or cannot be split so.
        """


@runtime_checkable
class CuttingStyle(Style, Protocol):
    """A style that a plan may give a bare parameter (experts' weights) too: it is cut, and its owner does the rest."""

    def cut(self, parameter: Tensor, axis: Axis) -> Sharding:
        """How the parameter is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A linear layer or `Conv1D` split by its output features, or an expert's weight [experts, O, I] by O.

    In an attention module with a `head_dim` whole heads stay together, and KV heads may be fewer than ranks.

    Attributes:
        input: what comes in, see `ColumnLinear.from_linear`.
        output: what goes out.
        parts: how many equal parts are fused ([gate; up] has 2), or the parts themselves.
        length: of the sequence, where `input` is an uneven shard of it.
        entered: the parent has entered the input for all its projections (`Enter`): this layer only multiplies.
        multiple: pad the outputs with zeros, so that each rank's are a multiple of this; for a head whose vocabulary is
            padded (`VocabularyRows`, `VocabularyLoss`). None: unpadded.
    """

    input: Replicate | Shard = REPLICATE
    output: Replicate | Shard = FEATURES
    parts: int | tuple[Section, ...] = 1
    length: int | None = None
    entered: bool = False
    multiple: int | None = None

    def __post_init__(self) -> None:
        if self.entered and (self.input, self.output) != (REPLICATE, FEATURES):
            raise CannotRunError(
                f"Column(entered=True, {self.input!r}, {self.output!r}): it only multiplies; leave both out"
            )
        if self.multiple is not None and (self.output, self.parts, self.entered) != (FEATURES, 1, False):
            raise CannotRunError("Column(multiple=) is for a head whose output stays split: leave output and parts")

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        axis, features = site.axis, linear_sizes(site, "column")[1]
        if self.multiple is not None:
            head = pad_outputs(self._split(site, None), site, self.multiple)
            return Change(module=head, traffic=((axis, head.traffic),))
        if self.output == REPLICATE:
            module = self._split(site, None)  # gathered in order, whatever the features belong to
            return Change(module=module, traffic=() if isinstance(module, nn.Linear) else ((axis, module.traffic),))
        unit = head_width(site, features) or 1
        sections = share_heads(even_sections(features, self.parts, unit, site.name), axis.size, site.name)
        module = self._split(site, sections)
        traffic = () if isinstance(module, nn.Linear) else ((axis, module.traffic),)
        few = min((section.length // section.unit for section in sections if section.shared), default=axis.size)
        sharers = site.sharers(few)
        if sharers is None:
            return Change(module=module, traffic=traffic)
        start = sum(section.length // axis.size for section in sections if not section.shared)
        return Change(
            module=module,
            install=lambda module: sum_gradients_of_parameters(module, sharers, start=start),
            attributes=local_groups(site, few) if len(sections) == 1 else {},
            traffic=(*traffic, (sharers, REPLICATED_IN_PARTS)),
        )

    def cut(self, parameter: Tensor, axis: Axis) -> Sharding:
        """Along the output features: the last dim but one, or the only dim of a bias."""
        dim = max(parameter.ndim - 2, 0)
        sections = even_sections(parameter.shape[dim], self.parts, 1, "a parameter")
        return split_sections(parameter.shape, dim, sections, rank=axis.rank, size=axis.size)

    def _split(self, site: Site, sections: tuple[Section, ...] | None) -> ColumnLinear | ColumnConv1D | nn.Linear:
        whole, axis = site.module, site.axis
        if is_conv1d(whole):
            if (self.input, self.output, self.entered) != (REPLICATE, FEATURES, False):
                raise CannotRunError(f"{site.name}: a Conv1D is split by columns from Replicate() to Shard(-1) only")
            return ColumnConv1D.from_conv1d(whole, axis, sections=sections)
        assert isinstance(whole, nn.Linear)
        column = ColumnLinear.from_linear(
            whole, axis, input=self.input, output=self.output, length=self.length, sections=sections
        )
        return local_linear(column) if self.entered else column


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A linear layer or `Conv1D` split by its input features, or an expert's weight [experts, O, I] by I.

    Attributes:
        input: what comes in, see `RowLinear.from_linear`.
        output: what goes out.
        parts: how many equal parts are fused in the input features.
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
class InParts:
    """A module with replicated parameters that sees this rank's tokens, or heads; see `sum_gradients_of_parameters`."""

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        if not list(site.module.parameters(recurse=False)):
            raise CannotRunError(f"{site.name} is a {type(site.module).__name__} without parameters of its own")
        return Change(
            module=site.module,
            install=lambda module: sum_gradients_of_parameters(module, site.axis),
            traffic=((site.axis, REPLICATED_IN_PARTS),),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropout:
    """A dropout whose mask does not depend on the split; see `PlacedDropout.from_dropout`.

    Attributes:
        seed: for an `nn.Dropout`, which has none; layers get masks of their own, by their paths.
        placement: of what is dropped from.
        total: its whole length along the split dim, if ranks hold unequal parts.
    """

    seed: int | None = None
    placement: Replicate | Shard = REPLICATE
    total: int | None = None

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        whole = site.module
        if not isinstance(whole, PlacedDropout) and not is_ordinary(whole, nn.Dropout):
            raise CannotRunError(f"{site.name} is a {type(whole).__name__}; needed is an nn.Dropout or a PlacedDropout")
        assert isinstance(whole, PlacedDropout | nn.Dropout)
        seed = None if self.seed is None else (self.seed * 2**32 + crc32(site.name.encode())) % 2**63
        placed = PlacedDropout.from_dropout(whole, site.axis, seed=seed, placement=self.placement, total=self.total)
        return Change(module=placed)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAttributes:
    """Integer attributes that count what the ranks share (a width, heads): each rank's own share of them."""

    names: tuple[str, ...]

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        local = {}
        for name in self.names:
            value = getattr(site.module, name, None)
            if not isinstance(value, int) or value % site.axis.size:
                raise CannotRunError(
                    f"{site.name}.{name} is {value!r}; needed is a number that {site.axis.size} ranks divide"
                )
            local[name] = value // site.axis.size
        return Change(module=site.module, install=lambda module: vars(module).update(local))


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """The module as it is, on every rank alike."""

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        return Change(module=site.module)


def is_ordinary(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it does what torch's own class does: a subclass may scale its result, or make its weight of others."""
    return type(module).forward is kind.forward and not hasattr(module, "parametrizations")


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is transformers' `Conv1D`, a linear layer with its weight transposed."""
    return type(module).__name__ == "Conv1D" and {"nf", "nx"} <= vars(module).keys()


def linear_sizes(site: Site, how: str) -> tuple[int, int]:
    """Input and output features of a module that is split as a linear layer.

    Raises:
        CannotRunError: it is none.
    """
    if is_ordinary(site.module, nn.Linear):
        return site.module.get_parameter("weight").shape[1], site.module.get_parameter("weight").shape[0]
    if is_conv1d(site.module):
        inputs, outputs = site.module.get_parameter("weight").shape
        return inputs, outputs
    raise CannotRunError(
        f"{site.name} is a {type(site.module).__name__}; split by {how}s are nn.Linear and transformers' Conv1D, not "
        "what has a forward or weights of another kind"
    )


def head_width(site: Site, features: int) -> int | None:
    """How many features belong together, where the module is a projection of an attention with a `head_dim`."""
    width = getattr(site.parent, "head_dim", None)
    return width if isinstance(width, int) and width > 0 and features % width == 0 else None


def share_heads(sections: tuple[Section, ...], size: int, name: str) -> tuple[Section, ...]:
    """The sections with those shared of which there are fewer heads than ranks: KV heads, at the end or by themselves.

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
    """How many query heads share a KV head on a rank, where ranks share the KV heads: fewer than in the whole.

    Raises:
        CannotRunError: the attention does not say how many there are in the whole.
    """
    groups = getattr(site.parent, "num_key_value_groups", None)
    if not isinstance(groups, int) or groups * heads % site.axis.size:
        raise CannotRunError(
            f"{site.name}: {heads} heads on {site.axis.size} ranks are shared only in an attention whose "
            f"num_key_value_groups says how many queries use each; it is {groups!r}"
        )
    return {"num_key_value_groups": groups * heads // site.axis.size}


def even_sections(features: int, parts: int | tuple[Section, ...], unit: int, name: str) -> tuple[Section, ...]:
    """The fused parts of a dim.

    Raises:
        CannotRunError: there are not so many equal parts.
    """
    if isinstance(parts, tuple):
        return parts
    if parts < 1 or features % (parts * unit):
        raise CannotRunError(f"{name}: {features} features are not {parts} parts of whole units of {unit}")
    return tuple(Section(length=features // parts, unit=unit) for _ in range(parts))


def pad_outputs(head: nn.Module, site: Site, multiple: int) -> ColumnLinear:
    """A column-split layer with the padded cut of the whole layer's parameters in place of the unpadded one.

    Raises:
        CannotRunError: it is no nn.Linear, or a rank would have nothing but padding.
    """
    if not isinstance(head, ColumnLinear):
        raise CannotRunError(f"{site.name} is a {type(site.module).__name__}; padded is only an nn.Linear")
    for name, parameter in site.module.named_parameters(recurse=False):
        padded = split_vocabulary(parameter.shape, site.axis, multiple=multiple)
        head.register_parameter(name, cut_parameter(parameter, padded))
    return head


def local_linear(column: ColumnLinear) -> nn.Linear:
    """An ordinary linear layer with this rank's rows."""
    local = nn.Linear(1, 1, bias=False, device="meta")
    local.in_features, local.out_features = column.weight.shape[1], column.weight.shape[0]
    local.weight, local.bias = column.weight, column.bias  # type: ignore[assignment] # torch's own is None without one
    return local
