"""Capture: what is recorded of a tensor, on one device or on one rank.

Always a clone of the rank's own plain tensor: collectives write in place, after a hook has seen the tensor.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from shardproof.exact import VOID, NoBound
from shardproof.exact.algebra.degree import CONSTANT
from shardproof.proving.records import Key, Phase, Recorded, Records
from shardproof.worlds.in_flight import calls_in_flight
from shardproof.worlds.processgroup import say_nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.nn import Module

    from shardproof.exact import ExactArithmetic


MOST_TABLES = 16  # of constants, in one module

# Inside, no function mode sees what is called, not even the reading of a dtype: the prover looks, not the program.
unseen = torch._C.DisableTorchFunction  # noqa: SLF001


@dataclass(slots=True, kw_only=True)
class Recorder:
    """Fills the records of one run on one device or rank.

    Attributes:
        exact: the run's arithmetic; None for ordinary arithmetic.
        heartbeat: called for every tensor recorded, in the backward too: a sign that this rank makes progress.
        records: filled in execution order.
        step: the number of the training step that is running.
        running: the names of the modules whose forward is running, outermost first; kept by `hooks.py`.
        latest_gradient: while a backward runs, the last one recorded, in words; kept by `hooks.py`.
        recomputing: the numbers of the backwards in which a forward is computed again; kept by `recomputation.py`.
        repeated: how often each recorded activation was computed again.
    """

    exact: ExactArithmetic | None = None
    heartbeat: Callable[[], None] = say_nothing
    records: Records = field(default_factory=Records)
    step: int = 0
    running: list[str] = field(default_factory=list)
    latest_gradient: str = ""
    recomputing: set[int] = field(default_factory=set)
    repeated: dict[Key, int] = field(default_factory=dict)

    def add(
        self,
        phase: Phase,
        name: str,
        tensor: Tensor | None,
        *,
        call: int = 0,
        frozen: bool = False,
        as_shift: bool = False,
    ) -> Key:
        """Record a tensor under the next call of its name; None (a parameter without a gradient) as missing.

        Args:
            phase: what the tensor is.
            name: of what it belongs to.
            tensor: on this device or rank.
            call: the first call count that is tried.
            frozen: None means a parameter that does not train, and is recorded as that.
            as_shift: see `capture`.
        """
        key = Key(self.step, phase, name, call)
        while self.has(key):
            key = Key(key.step, phase, name, key.call + 1)
        if tensor is None:
            (self.records.frozen if frozen else self.records.missing).append(key)
        else:
            self.heartbeat()
            self.keep(key, tensor, as_shift=as_shift)
        return key

    def has(self, key: Key) -> bool:
        """Whether a tensor is recorded under a key."""
        return key in self.records.tensors

    def keep(self, key: Key, tensor: Tensor, *, as_shift: bool) -> None:
        """Put a tensor into the records."""
        self.records.tensors[key] = capture(tensor, self.exact, as_shift=as_shift)

    def add_square(self, key: Key, norm: Tensor) -> None:
        """Record the square of a norm: in exact arithmetic a root is no sum, so a wrong sum shows in its square."""
        self.records.squares[key] = capture(norm.detach() ** 2, self.exact).values

    def add_table(self, module: str, table: Tensor) -> None:
        """Record a table of constants of the first step, if it is another than the module's last one."""
        if self.step or self.exact is None:
            return
        tables = self.records.tables.setdefault(module, [])
        values = capture(table, self.exact).values
        if len(tables) < MOST_TABLES and not (tables and torch.equal(tables[-1], values)):
            tables.append(values)

    def add_start(self, name: str, parameter: Tensor) -> None:
        """Record a parameter as it is before the step's update."""
        with nullcontext() if self.exact is None else self.exact.paused():
            start = parameter.detach()
        self.records.starts[Key(self.step, Phase.UPDATE, name)] = capture(start, self.exact)


def capture(tensor: Tensor, exact: ExactArithmetic | None, *, as_shift: bool = False) -> Recorded:
    """A tensor's numbers, cloned, complex ones as pairs; in exact arithmetic its residues and what is known of them.

    Args:
        tensor: on this device or rank.
        exact: the run's arithmetic; None for ordinary arithmetic.
        as_shift: a maximum that may be cut here, and is only subtracted afterwards.
    """
    with unseen():
        return _capture(tensor, exact, as_shift=as_shift)


def see_numbers(tensor: Tensor) -> Tensor:
    """A tensor's numbers in ordinary arithmetic, as `capture` gives them, but not cloned."""
    with unseen():
        local = _own_numbers(tensor)
        return local.detach() if local.is_floating_point() else local.detach().to(torch.float64)


def _capture(tensor: Tensor, exact: ExactArithmetic | None, *, as_shift: bool) -> Recorded:
    if exact is not None and (tensor.is_floating_point() or tensor.is_complex()):
        exact.admit(tensor)
    local = _own_numbers(tensor)
    if not local.is_floating_point():
        with nullcontext() if exact is None else exact.paused():
            return _capture_discrete(local, exact)
    if exact is None:
        return Recorded(stored=local.detach().clone())
    bound = exact.bound(local, as_shift=as_shift)
    return Recorded(
        stored=exact.digits(local, symbols=True, compact=True),
        chance=1.0 if bound.per_trial is None else bound.per_trial,
        no_bound=bound.reason,
    )


def _own_numbers(tensor: Tensor) -> Tensor:
    local = local_value(tensor)
    calls_in_flight().check_tensor(local, "", writes=False)
    return torch.view_as_real(local.detach().resolve_conj()) if local.is_complex() else local


def _capture_discrete(local: Tensor, exact: ExactArithmetic | None) -> Recorded:
    """Integers and booleans, which mean themselves in every arithmetic."""
    numbers = local.detach()
    if exact is None:
        return Recorded(stored=numbers.to(torch.float64, copy=True))
    tag, void = exact.tags.get(local), exact.void_mask(local)
    values = numbers.to(torch.int64, copy=True)
    chosen = tag is not None and tag.degree != CONSTANT  # by residues: of such a choice no bound is derived
    if void is not None:
        values = values.masked_fill(void, VOID)
    return Recorded(stored=values, chance=1.0 if chosen else 0.0, no_bound=NoBound.SELECTION if chosen else None)


def local_value(tensor: Tensor) -> Tensor:
    """This rank's own plain tensor: a DTensor's local one; of a collective that is under way, its result."""
    from torch.distributed._functional_collectives import AsyncCollectiveTensor
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        tensor = tensor._local_tensor  # noqa: SLF001 - to_local() would record an autograd node
    if isinstance(tensor, AsyncCollectiveTensor):
        tensor = tensor.wait()
    return tensor


def match_placements(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    """A gradient with its parameter's placements: a DTensor's may be Partial, and its next use would reduce it."""
    from torch.distributed.tensor import DTensor

    if isinstance(gradient, DTensor) and isinstance(parameter, DTensor):
        return gradient.redistribute(placements=parameter.placements)
    return gradient


def clone_parameters(model: Module) -> dict[str, Tensor]:
    """A clone of this rank's own plain tensor of every parameter, by name."""
    return {name: local_value(parameter.detach()).clone() for name, parameter in model.named_parameters()}
