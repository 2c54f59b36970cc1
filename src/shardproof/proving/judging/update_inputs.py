"""What the candidate's own updates are computed from: its gradients and states, put together to full tensors.

An optimizer may amplify rounding without bound: Adam's first step is lr * sign(g), also of a gradient that is all
rounding. So in numbers an update is compared with the reference's optimizer on these inputs, not on the reference's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

import torch

from shardproof.proving.judging.layout import PADDING
from shardproof.proving.records import OF_PARAMETERS, Key, Phase, UpdateInputs, UpdateStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.records import BothSides, Records


def collect_update_inputs(both: BothSides, layout: Layout) -> tuple[UpdateInputs, ...]:
    """The inputs of the updates in the user's own dtypes; several where replicas differ. Empty if some are missing.

    Args:
        both: the runs in ordinary arithmetic among them.
        layout: of the candidate.
    """
    reference = both.reference.native.get(both.own_precision)
    if reference is None or not any(key.phase is Phase.UPDATE for key in reference.tensors):
        return ()
    ranks = [side.native[both.own_precision] for side in both.ranks]
    parts = _Parts(
        layout=layout, ranks=ranks, starts=[side.start for side in both.ranks], dtypes=_dtypes(layout, reference)
    )
    keys = {(key.step, key.phase, key.name.partition("/")[2]) for records in ranks for key in records.tensors}
    groups = sorted(group for group in keys if group[1] in OF_PARAMETERS)
    if not any(phase in (Phase.GRADIENT, Phase.CLIPPED) for _, phase, _ in groups):
        return ()  # a training of the user's own that reports no gradients
    shared = parts.alike([*groups, None])
    found = []
    for chosen in [shared, *([rank] for rank in range(len(ranks)) if rank not in shared)]:
        inputs = parts.assemble(groups, last=chosen[0])
        if inputs is None:
            return ()
        found.append(replace(inputs, ranks=tuple(chosen)))
    return tuple(found)


_Group = tuple[int, Phase, str]  # the step, what it is, and of a state which


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What each rank holds of each tensor of the full state.

    Attributes:
        layout: where.
        ranks: the records.
        starts: the parameters before the first step, by rank.
        dtypes: of the reference's parameters, by name.
    """

    layout: Layout
    ranks: Sequence[Records]
    starts: Sequence[Mapping[str, Tensor]]
    dtypes: Mapping[str, torch.dtype]

    def alike(self, groups: Iterable[_Group | None]) -> list[int]:
        """The ranks that hold, of every element, the very number that the first rank holding it does."""
        different: set[int] = set()
        for group in groups:
            whole, _ = self._vector(group, last=0)
            for rank in range(len(self.ranks)):
                held = self._held(group, rank)
                if any(not self._is_alike(values, whole, name, rank) for name, values in held):
                    different.add(rank)
        return [rank for rank in range(len(self.ranks)) if rank not in different] or [0]

    def assemble(self, groups: Sequence[_Group], *, last: int) -> UpdateInputs | None:
        """The full tensors; where ranks differ, those of the rank `last`. None where a parameter is held in part."""
        parameters = self._tensors(None, last)
        if parameters is None or len(parameters) < len(self.layout.state.names):
            return None
        steps = []
        for number in sorted({step for step, _, _ in groups}):
            found: dict[tuple[Phase, str], dict[str, Tensor]] = {}
            for step, phase, suffix in groups:
                tensors = self._tensors((step, phase, suffix), last) if step == number else {}
                if tensors is None:
                    return None
                if step == number:
                    found[phase, suffix] = tensors
            clipped = (Phase.CLIPPED, "") in found
            steps.append(
                UpdateStep(
                    gradients=found.get((Phase.CLIPPED if clipped else Phase.GRADIENT, ""), {}),
                    clipped=clipped,
                    states={suffix: one for (phase, suffix), one in found.items() if phase is Phase.STATE},
                    updates=found.get((Phase.UPDATE, ""), {}),
                )
            )
        return UpdateInputs(parameters=parameters, steps=tuple(steps))

    def _tensors(self, group: _Group | None, last: int) -> dict[str, Tensor] | None:
        """The tensors of one kind, by the reference's names; None if one is held in part."""
        whole, present = self._vector(group, last)
        state, found = self.layout.state, {}
        for name, shape in zip(state.names, state.shapes, strict=True):
            span = state.span(name)
            if bool(present[span].all()):
                found[name] = whole[span].view(shape).to(self.dtypes[name])
            elif bool(present[span].any()):
                return None
        return found

    def _vector(self, group: _Group | None, last: int) -> tuple[Tensor, Tensor]:
        """The full vector, in a dtype that holds every number, and which of its elements some rank holds."""
        held = [self._held(group, rank) for rank in range(len(self.ranks))]
        dtypes = [values.dtype for of_rank in held for _, values in of_rank]
        whole = torch.zeros(self.layout.state.length, dtype=reduce(torch.promote_types, dtypes or [torch.float64]))
        present = torch.zeros(self.layout.state.length, dtype=torch.bool)
        for rank in [*reversed(range(len(self.ranks))), last]:
            for name, values in held[rank]:
                self.layout.put(whole, name, rank, values.to(whole.dtype))
                self.layout.put(present, name, rank, True)
        return whole, present

    def _is_alike(self, values: Tensor, whole: Tensor, name: str, rank: int) -> bool:
        """Whether a rank holds the very numbers of a full vector; padding aside."""
        if rank in self.layout.parts.get(name, {}):
            return torch.equal(values.to(whole.dtype), self.layout.take(whole, name, rank))
        index = self.layout.element_index[name][rank]
        kept = index != PADDING
        return torch.equal(values[kept].to(whole.dtype), whole[index[kept]])

    def _held(self, group: _Group | None, rank: int) -> list[tuple[str, Tensor]]:
        """What a rank holds, by parameter."""
        found = []
        for name, ranks in self.layout.element_index.items():
            values = self._values(group, name, rank)
            if values is not None and rank in ranks and values.shape == ranks[rank].shape:
                found.append((name, values))
        return found

    def _values(self, group: _Group | None, name: str, rank: int) -> Tensor | None:
        if group is None:
            return self.starts[rank].get(name)
        step, phase, suffix = group
        recorded = self.ranks[rank].tensors.get(Key(step, phase, f"{name}/{suffix}" if suffix else name))
        return None if recorded is None else recorded.values


def _dtypes(layout: Layout, reference: Records) -> dict[str, torch.dtype]:
    """Of each of the reference's parameters in the user's own dtypes."""
    updated = {key.name: one.values.dtype for key, one in reference.tensors.items() if key.phase is Phase.UPDATE}
    return {name: updated.get(name, torch.float64) for name in layout.state.names}
