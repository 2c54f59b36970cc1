"""Layout: which element of the full state each rank's local element is, found from the values before the first step.

The prover's values are all different, so a value identifies an element. What a sharding says of itself is not used: a
fused, permuted, padded or hand-cut parameter is found as well as a DTensor, and a wrong description is of no effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.errors import CannotRunError
from shardproof.proving.judging.permutations import KnownOrders
from shardproof.proving.part import Part, find_part

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PADDING = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class FullState:
    """The reference's parameters as one flat vector.

    Attributes:
        names: the parameters in order.
        starts: the index at which each begins in the vector; one more entry, the vector's length.
        shapes: of each parameter.
    """

    names: tuple[str, ...]
    starts: tuple[int, ...]
    shapes: tuple[torch.Size, ...]

    @property
    def length(self) -> int:
        return self.starts[-1]

    def flatten(self, tensors: Mapping[str, Tensor | None]) -> Tensor:
        """Tensors of the parameters' shapes as one vector; zeros where one is missing."""
        parts = []
        for name, (start, stop) in zip(self.names, pairwise(self.starts), strict=True):
            tensor = tensors.get(name)
            parts.append(torch.zeros(stop - start, dtype=torch.int64) if tensor is None else tensor.reshape(-1))
        return torch.cat(parts)

    def span(self, name: str) -> slice:
        """The parameter's elements in the vector."""
        at = self.names.index(name)
        return slice(self.starts[at], self.starts[at + 1])

    def shape(self, name: str) -> torch.Size:
        """The parameter's shape."""
        return self.shapes[self.names.index(name)]


def full_state(parameters: Mapping[str, Tensor]) -> FullState:
    """The parameters in one vector, in their order."""
    starts = [0]
    for tensor in parameters.values():
        starts.append(starts[-1] + tensor.numel())
    return FullState(
        names=tuple(parameters), starts=tuple(starts), shapes=tuple(tensor.shape for tensor in parameters.values())
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the candidate's elements are in the full state.

    Attributes:
        state: the reference's parameters as one vector.
        element_index: by parameter and rank, a tensor of the local parameter's shape: each element's index in the
            vector, or PADDING.
        parts: by parameter and rank, which part of the reference's parameter of that name a local parameter is, where
            it is one: then no sort is needed to find its elements, and no index to take them.
        orders: of activations whose dims the ranks hold in an order of their own, as far as runs have shown.
    """

    state: FullState
    element_index: Mapping[str, Mapping[int, Tensor]]
    parts: Mapping[str, Mapping[int, Part]] = field(default_factory=dict)
    orders: KnownOrders = field(default_factory=KnownOrders)
    _spans: dict[str, Sequence[str]] = field(default_factory=dict)

    def spans(self, name: str) -> Sequence[str]:
        """Which of the reference's parameters a candidate's parameter holds elements of."""
        if name not in self._spans:
            self._spans[name] = self._find_spans(name)
        return self._spans[name]

    def is_in_parts(self, name: str) -> bool:
        """Whether each rank that has a parameter of this name holds a part of the reference's one."""
        return name in self.parts and self.parts[name].keys() == self.element_index[name].keys()

    def is_flat(self, name: str) -> bool:
        """Whether it is a buffer that one device does not have, with elements of its parameters one after the other.

        As ZeRO updates them, beside the model's own parameters: no tie. What is tied to a matrix is a matrix.
        """
        if name in self.state.names or any(index.ndim != 1 for index in self.element_index[name].values()):
            return False
        return len(self.spans(name)) != 1 or len(self.state.shape(self.spans(name)[0])) > 1

    def take(self, vector: Tensor, name: str, rank: int) -> Tensor:
        """A rank's elements of a vector like the full state, in the shape that it holds; zeros for padding."""
        part = self.parts.get(name, {}).get(rank)
        if part is not None:
            return part.of(vector[self.state.span(name)].view(self.state.shape(name)))
        index = self.element_index[name][rank]
        return torch.where(index != PADDING, vector[index.clamp(min=0)], 0)

    def put(self, vector: Tensor, name: str, rank: int, values: Tensor | bool) -> None:
        """Write values, in the shape that a rank holds, into its elements of a vector like the full state."""
        part = self.parts.get(name, {}).get(rank)
        if part is not None:
            part.put(vector[self.state.span(name)].view(self.state.shape(name)), values)
            return
        index = self.element_index[name][rank]
        kept = index != PADDING
        vector[index[kept]] = values[kept] if isinstance(values, Tensor) else values

    def _find_spans(self, name: str) -> Sequence[str]:
        if name not in self.element_index:
            return ()  # no rank has a parameter of this name
        if self.is_in_parts(name):
            return (name,)
        held = torch.cat([index.reshape(-1) for index in self.element_index[name].values()])
        held = held[held != PADDING]
        return [
            reference
            for reference in self.state.names
            if bool(((held >= self.state.span(reference).start) & (held < self.state.span(reference).stop)).any())
        ]


def not_of_the_state(name: str, rank: int | None = None) -> str:
    """Why a layout cannot be found: a parameter holds values that are none of those given."""
    where = "" if rank is None else f" on rank {rank}"
    return (
        f"parameter {name}{where} starts with values that are not in the full state: the sharding must take its values "
        "from the model that it is given (or load the state dict), not draw its own; values that are drawn whatever is "
        "given, the same at every call, may stand in DTensors and in whole parameters, into which the full state is "
        "loaded after the sharding"
    )


def find_layout(reference: Mapping[str, Tensor], candidate: Mapping[str, Mapping[int, Tensor]]) -> Layout:
    """Look up every local value among the reference's. A zero that is none of them is padding.

    Args:
        reference: the full parameters in float64, all values different.
        candidate: by name and rank, the local parameters before the first step.

    Raises:
        CannotRunError: a local value is not one of the reference's: the candidate did not start from the full state.
    """
    state = full_state(reference)
    addresses = torch.arange(state.length)  # the indices of parts are views of it, where their dims are slices
    lookup: _Lookup | None = None
    element_index: dict[str, dict[int, Tensor]] = {}
    parts: dict[str, dict[int, Part]] = {}
    for name, ranks in candidate.items():
        element_index[name] = {}
        for rank, local in ranks.items():
            part = find_part(local, reference[name]) if name in reference else None
            if part is not None:
                parts.setdefault(name, {})[rank] = part
                element_index[name][rank] = part.of(addresses[state.span(name)].view(reference[name].shape))
                continue
            lookup = lookup or _Lookup.of(state.flatten(reference))
            index = lookup.find(local)
            if index is None:
                raise CannotRunError(not_of_the_state(name, rank))
            element_index[name][rank] = index
    return Layout(state=state, element_index=element_index, parts=parts)


def lay_out_whole(reference: Mapping[str, Tensor], ranks: int) -> Layout:
    """The layout of ranks that all hold the full state."""
    state = full_state(reference)
    addresses = torch.arange(state.length)
    return Layout(
        state=state,
        element_index={
            name: dict.fromkeys(range(ranks), addresses[state.span(name)].view(tensor.shape))
            for name, tensor in reference.items()
        },
        parts={name: dict.fromkeys(range(ranks), Part.whole(tensor.shape)) for name, tensor in reference.items()},
    )


@dataclass(frozen=True, slots=True)
class _Lookup:
    """The values of the full state in ascending order, and the index of each in the vector."""

    values: Tensor
    order: Tensor

    @classmethod
    def of(cls, vector: Tensor) -> _Lookup:
        return cls(*vector.sort())

    def find(self, local: Tensor) -> Tensor | None:
        """The index of each local value, or PADDING; None if one is neither of the full state nor zero."""
        numbers = local.to(torch.float64).reshape(-1)
        at = torch.searchsorted(self.values, numbers.contiguous()).clamp_(max=max(len(self.values) - 1, 0))
        found = self.values[at] == numbers
        padding = ~found & (numbers == 0)
        if not bool((found | padding).all()):
            return None
        return torch.where(found, self.order[at], PADDING).reshape(local.shape)
