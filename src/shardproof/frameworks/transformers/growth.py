"""Growth: which fields of a configuration the dims of its parameters grow with, and over which ranks they are split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations
from math import gcd, lcm, prod
from typing import TYPE_CHECKING, Any

from shardproof.frameworks.transformers.dividing import Dimension, Field, list_splits, shrink
from shardproof.frameworks.transformers.layers import is_count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from shardproof.frameworks.transformers.dividing import Splits
    from shardproof.frameworks.transformers.plans import OwnPlan

Place = tuple[str, int]  # a parameter and one of its dims

_HEAD_SIZE = re.compile(r"head_dim|.*_head_dim|d_head|d_kv")
_WIDTH = re.compile(
    r"vocab_size|hidden_size|d_model|n_embd|intermediate_size|.*_intermediate_size|ffn_dim|d_ff|ffn_hidden_size|.*lora_rank"
)
_SHARED = re.compile(r".*(heads|experts|experts_per_tok|n_group|topk_group|top_k)")
_DERIVED = ("qk_head_dim",)  # a sum of two others
_PERMUTED = 4  # fields of which every order is tried
_LEAST = 4  # of a head: two pairs that are rotated


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The fields of a configuration that can be made smaller, and what follows from them.

    Attributes:
        fields: that of which most parameters depend comes first.
        dims: of every parameter.
        shared: what ranks share, which stays as it is.
    """

    fields: list[Field]
    dims: Mapping[Place, Dimension]
    shared: list[Dimension]

    def choose_sizes(self) -> dict[str, int]:
        """The smallest sizes for which the conditions hold, chosen in the order that leaves fewest parameters."""
        # Dims of one size for one reason that are split alike are one.
        distinct = {(one.full, tuple(one.factors.items()), one.splits): one for one in self.dims.values()}
        dimensions = [*self.shared, *distinct.values()]
        first, rest = self.fields[:_PERMUTED], self.fields[_PERMUTED:]
        found = [shrink([*order, *rest], dimensions) for order in permutations(first)]
        return min(found, key=self.count_parameters)

    def count_parameters(self, sizes: Mapping[str, int]) -> int:
        """How many numbers the parameters are, for sizes of the fields."""
        by_name = {field.name: field for field in self.fields}
        counts: dict[str, int] = {}
        for (name, _), dimension in self.dims.items():
            counts[name] = counts.get(name, 1) * dimension.reduced(by_name, sizes)
        return sum(counts.values())


def measure(
    entries: Mapping[str, Any],
    model: nn.Module,
    make: Callable[[Mapping[str, int]], nn.Module],
    splits: Mapping[Place, Splits],
) -> Measured:
    """Find the fields that can be made smaller, and how each dim of a parameter grows with them.

    Args:
        entries: a configuration.
        model: of it.
        make: makes a model with other values of some fields.
        splits: over how many ranks each dim of a parameter may be split.
    """
    before = list_dims(model)
    steps: dict[str, int] = {}
    factors: dict[Place, dict[str, Fraction]] = {place: {} for place in before}
    for name in (one for one, value in entries.items() if _is_size(one, value, entries)):
        step, grown = _count_growth(make, name, entries[name], entries, before)
        for place, count in grown.items():
            factors[place][name] = count
        if grown:
            steps[name] = step
    elements = {name: parameter.numel() for name, parameter in model.named_parameters()}
    depending = {name: sum(elements[place[0]] for place, grows in factors.items() if name in grows) for name in steps}
    fields = [
        Field(
            name=name,
            full=entries[name],
            modulus=lcm(steps[name], *(_keep_remainder(name, grows, splits[at]) for at, grows in factors.items())),
            least=_choose_least(name, entries),
        )
        for name in sorted(steps, key=lambda one: -depending[one])
    ]
    dims = {
        place: Dimension(name=name_place(place), full=size, factors=factors[place], splits=splits[place])
        for place, size in before.items()
    }
    shared = [Dimension(name=name, full=value, factors={}) for name, value in list_shared(entries).items()]
    return Measured(fields=fields, dims=dims, shared=shared)


def find_splits(model: nn.Module, mesh: Mapping[str, int], plan: OwnPlan | None) -> dict[Place, Splits]:
    """Over how many ranks each dim of a parameter may be split.

    By a model's own plan: the dim that a parameter's style splits over tp, every dim where the style is not known to
    split one, and the first dim by FSDP2 over the other axes, after tp. By code of the user's, and with an axis of
    experts, every dim over every set of axes.
    """
    places = list_dims(model)
    if plan is None or "ep" in mesh:
        return dict.fromkeys(places, list_splits(mesh))
    styles = plan.resolve(model, mesh) if "tp" in mesh else {}
    others = prod(size for name, size in mesh.items() if name != "tp")
    found = {}
    shapes = {name: len(parameter.shape) for name, parameter in model.named_parameters()}
    for name, dim in places:
        style = styles.get(name, styles.get(name.rpartition(".")[0]))
        columns = mesh.get("tp", 1) if _may_split(style, dim, shapes[name]) else 1
        rows = others if dim == 0 else 1
        ways = {(columns,), (rows,), (columns, rows)} if min(columns, rows) > 1 else {(max(columns, rows),)}
        found[name, dim] = tuple(sorted(ways - {(1,)}))
    return found


def list_dims(model: nn.Module) -> dict[Place, int]:
    """The size of each dim of each parameter."""
    return {(name, dim): size for name, tensor in model.named_parameters() for dim, size in enumerate(tensor.shape)}


def list_shared(entries: Mapping[str, Any]) -> dict[str, int]:
    """The fields that a plan shares among ranks, and those that choose among them: heads, experts, groups."""
    return {name: value for name, value in entries.items() if _SHARED.fullmatch(name) and is_count(value) and value > 1}


def name_place(place: Place) -> str:
    """'dim 0 of lm_head.weight'."""
    return f"dim {place[1]} of {place[0]}"


def _is_size(name: str, value: object, entries: Mapping[str, Any]) -> bool:
    if name in _DERIVED or (name == "head_dim" and "qk_rope_head_dim" in entries):
        return False
    return is_count(value) and value > _LEAST and bool(_WIDTH.fullmatch(name) or _HEAD_SIZE.fullmatch(name))


def _count_growth(
    make: Callable[[Mapping[str, int]], nn.Module],
    name: str,
    full: int,
    entries: Mapping[str, Any],
    before: Mapping[Place, int],
) -> tuple[int, dict[Place, Fraction]]:
    """By which steps a field may change, and by how much each dim grows for each 1 of it.

    By 2 where that does to every dim what a multiple of the heads does; else by multiples of the heads, as for a width
    of which each head has a share. Nothing grows where there is no model with another value.
    """
    heads = entries.get("num_attention_heads")
    large = heads if is_count(heads) else 2
    by_two, by_heads = (_grow(make, name, full, step, before) for step in (2, 2 * large))
    step = 2 if by_two == by_heads else large
    return step, {place: count for place, count in (by_heads or {}).items() if count}


def _grow(
    make: Callable[[Mapping[str, int]], nn.Module], name: str, full: int, step: int, before: Mapping[Place, int]
) -> dict[Place, Fraction] | None:
    try:
        after = list_dims(make({name: full + step}))
    except Exception:  # noqa: BLE001 - whatever a configuration or a model refuses
        return None
    if after.keys() != before.keys():
        return None
    return {place: Fraction(size - before[place], step) for place, size in after.items()}


def _keep_remainder(name: str, grows: Mapping[str, Fraction], splits: Splits) -> int:
    """The modulus of a field with which a sum of it and other fields keeps its remainder, whatever the others are."""
    if name not in grows or len(grows) == 1:
        return 1
    ranks = lcm(*map(prod, splits))
    return ranks // gcd(ranks, grows[name].numerator)


def _choose_least(name: str, entries: Mapping[str, Any]) -> int:
    if not _HEAD_SIZE.fullmatch(name):
        return _LEAST
    rope = entries.get("rope_parameters") or {}
    share = entries.get("partial_rotary_factor") or rope.get("partial_rotary_factor") or 1.0
    return int(-(-_LEAST // share))


def _may_split(style: str | None, dim: int, dims: int) -> bool:
    """Whether a style of transformers may split a dim: by columns the rows of a weight, by rows its columns."""
    if style is None or "replicated" in style:
        return False
    if "colwise" in style:
        return dim == max(0, dims - 2)
    if "rowwise" in style and "embedding" not in style:
        return dims > 1 and dim == dims - 1
    return True
