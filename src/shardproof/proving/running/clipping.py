"""Clipping by the norm of the full gradient, in which each element counts once, whatever the sharding.

A plain shard looks like a replica, so shapes and placements don't tell what a rank has to count. The values before the
first step do: each is one element's. For every element the first rank that holds it counts it; the ranks find out in
one exchange, before any run is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from shardproof.errors import CannotRunError
from shardproof.proving.running.capture import local_value, match_placements
from shardproof.proving.running.segments import number_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.distributed.device_mesh import DeviceMesh
    from torch.nn import Module

    from shardproof.proving.step import Step


_BLOCK = 1 << 20  # elements of the full state in one exchange


@dataclass(slots=True)
class ElementNumbers:
    """The numbers of all elements of a full state, sorted once: the ranks of a simulated world share them."""

    state: Mapping[str, Tensor] | None = None
    numbers: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def of(self, state: Mapping[str, Tensor]) -> Tensor:
        """The sorted numbers of a state dict in float64; nobody writes into either."""
        if self.state is not state:
            floating = {name: values.double() for name, values in state.items() if values.is_floating_point()}
            self.numbers = torch.cat([one.reshape(-1) for one in number_parameters(floating).values()]).unique()
            self.state = state
        return self.numbers


@dataclass(slots=True, kw_only=True)
class CountedElements:
    """Which elements of its parameters a rank counts in the norm: found once, for all of its runs.

    Attributes:
        known: keeps what all ranks look up.
        masks: by name, booleans of the local parameter's shape; empty before `find`, or as first runs have told.
    """

    known: ElementNumbers
    masks: dict[str, Tensor] = field(default_factory=dict)

    def find(self, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The masks of this rank's own plain parameters before the first step; all ranks call it together.

        The first call has to be that of a run in float64, which starts from the full state as it is.
        """
        if not self.masks:
            self.masks.update(find_counted(parameters, state, self.known))
        return self.masks


def find_counted(
    parameters: Mapping[str, Tensor], state: Mapping[str, Tensor], known_numbers: ElementNumbers | None = None
) -> dict[str, Tensor]:
    """By name, which of this rank's elements no rank before it holds, and no parameter before it on this rank.

    Padding is not counted. A value that is not in the state is not either: the layout is refused by the judge.

    Args:
        parameters: this rank's own plain tensors before the first step.
        state: the full state dict, in float64, in which no two elements of parameters have one value.
        known_numbers: where those of the state are kept for other ranks.
    """
    rank, size = dist.get_rank(), dist.get_world_size()
    known = (known_numbers or ElementNumbers()).of(state)
    held = _find_held(parameters, known)
    counted = {name: torch.zeros_like(mine) for name, (_, mine) in held.items()}
    # By blocks: in a simulated world the vectors of all ranks are in memory at once.
    for start in range(0, len(known), _BLOCK):
        owner = torch.full((min(_BLOCK, len(known) - start),), size, dtype=torch.int32)
        here = {name: mine & (at >= start) & (at < start + len(owner)) for name, (at, mine) in held.items()}
        for name, mine in here.items():
            owner[held[name][0][mine] - start] = rank
        dist.all_reduce(owner, op=dist.ReduceOp.MIN)
        for name, mine in here.items():
            counted[name][mine] = owner[held[name][0][mine] - start] == rank
    return counted


def _find_held(parameters: Mapping[str, Tensor], known: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """By name, where each element stands among those known, and whether it is one of them that no other name holds."""
    held = {}
    taken = torch.zeros(len(known), dtype=torch.bool)
    for name, numbers in number_parameters({name: one.double() for name, one in parameters.items()}).items():
        at = torch.searchsorted(known, numbers).clamp(max=len(known) - 1)
        mine = (known[at] == numbers) & (numbers >= 0) & ~taken[at]
        taken[at[mine]] = True
        held[name] = at, mine
    return held


def clip_model(model: Module, step: Step, counted: Mapping[str, Tensor] | None) -> Tensor | None:
    """Clip as the step says; return the norm, or None where it is not known.

    On one device `clip_norm` is taken before the user's own `clip`; on a rank `clip` is.

    Args:
        model: the reference's, or one rank's.
        step: whose clipping it is.
        counted: of a rank, as for `clip_gradients`; None on one device.

    Raises:
        CannotRunError: the user's own returns something else than a norm.
    """
    if step.clip is None or (step.clip_norm is not None and counted is None):
        assert step.clip_norm is not None
        return clip_gradients(model, step.clip_norm, counted)
    from torch.distributed.tensor import DTensor

    norm = step.clip(model)
    if isinstance(norm, int | float):
        return None  # the clipped gradients alone are compared
    if norm is not None and not (isinstance(norm, Tensor) and norm.numel() == 1):
        raise CannotRunError(f"clip(model) returned {type(norm).__name__}; return the norm as a scalar tensor, or None")
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    return None if norm is None else norm.detach().reshape(())


def clip_gradients(model: Module, max_norm: float, counted: Mapping[str, Tensor] | None = None) -> Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)), as `torch.nn.utils.clip_grad_norm_` does.

    Args:
        model: the reference's, or one rank's.
        max_norm: the largest norm afterwards.
        counted: by name, which elements of its parameters a rank counts; None on one device, which counts all.

    Returns:
        The norm before clipping, a scalar of the gradients' dtype, the same on all ranks.

    Raises:
        CannotRunError: a gradient is not of its parameter's local shape before the first step.
    """
    total = _norm_of_one_device(model) if counted is None else _norm_of_ranks(model, counted)
    on_mesh: dict[DeviceMesh | None, list[Tensor]] = {}  # PyTorch refuses gradients on several meshes together
    for parameter in model.parameters():
        if parameter.grad is not None:
            on_mesh.setdefault(getattr(parameter.grad, "device_mesh", None), []).append(parameter)
    for group in on_mesh.values():
        torch.nn.utils.clip_grads_with_norm_(group, max_norm, total)
    return total


def _norm_of_one_device(model: Module) -> Tensor:
    return torch.nn.utils.get_total_norm([one.grad for one in model.parameters() if one.grad is not None])


@torch.no_grad()
def _norm_of_ranks(model: Module, counted: Mapping[str, Tensor]) -> Tensor:
    """Summed in float64, in which no square overflows; then in the dtype in which one device has it."""
    squares = torch.zeros((), dtype=torch.float64)
    dtypes = []
    for name, parameter in model.named_parameters():
        gradient = match_placements(parameter.grad, parameter)
        if gradient is None:
            continue
        dtypes.append(gradient.dtype)
        local, mask = local_value(gradient), counted.get(name)
        if mask is None or mask.shape != local.shape:
            before = "absent" if mask is None else f"of shape {tuple(mask.shape)}"
            raise CannotRunError(
                f"the gradient of {name} on a rank is of shape {tuple(local.shape)}, and the parameter was {before} "
                "before the first step: give the clipping of your own as Step(clip=...)"
            )
        if bool(mask.any()):
            squares = squares + torch.where(mask, local.double(), 0.0).square().sum()
    dist.all_reduce(squares)
    return squares.sqrt().to(reduce(torch.promote_types, dtypes) if dtypes else torch.float64)
