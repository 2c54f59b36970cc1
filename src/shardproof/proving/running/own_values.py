"""Shardings that draw initial values of their own, whatever values they are given, as init after sharding does.

The prover's values identify elements, so they have to be in place before the first step. Where a sharding has put
numbers of its own there, the full state is loaded after it, as a checkpoint would be: into a DTensor by its
placements, into a parameter that is whole as it is. A plain shard does not say which part it is, and is left as it is.

Only numbers that do not depend on those given are replaced: a sharding that scales, rounds or zeroes what it is given
would be mended by it. Two runs from different values tell: the numbers must be the same to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.errors import CannotRunError
from shardproof.proving.part import find_part
from shardproof.proving.records import Precision
from shardproof.proving.running.capture import local_value
from shardproof.proving.running.models import convert, dtype_of, fill_drawn_buffers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.nn import Module, Parameter

    from shardproof.proving.records import Told

    Values = Mapping[str, Tensor]

_Kind = tuple[bool, Precision]  # of a run: whether its arithmetic is exact, and its precision


@dataclass(slots=True, kw_only=True)
class OwnValues:
    """The parameters of one rank that a sharding fills itself.

    Attributes:
        names: of these, found in the first run, which is in float64; None before it.
        held: by run, what they held before the prover's values were loaded, in float64.
        drawn_by_dtensor: the parameters whose shards DTensor has drawn.
    """

    names: frozenset[str] | None = None
    held: dict[_Kind, dict[str, Tensor]] = field(default_factory=dict)
    drawn_by_dtensor: tuple[str, ...] = ()

    def load_over(
        self, model: Module, state: Values, drawn: Values, precision: Precision, *, exact: bool = False
    ) -> None:
        """Load a run's full state into the parameters whose values are the sharding's own; buffers drawn, too.

        Args:
            model: sharded.
            state: the full state, in float64.
            drawn: the buffers, and parameters, that the prover has drawn.
            precision: of the run that the model is for.
            exact: whether its arithmetic is exact.

        Raises:
            CannotRunError: a parameter is on the meta device.
        """
        if self.names is None:
            self.names = _find_own(model, state)
        if not self.names:
            return
        dtype = dtype_of(precision)
        if dtype is not None and any(one.dtype != dtype for one in model.parameters() if one.is_floating_point()):
            convert(model, dtype)  # the sharding has built a model itself
        held = {}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in self.names:
                    local = local_value(parameter)
                    held[name] = local.double().clone()
                    own = _own_part(state.get(name), parameter)
                    if own is not None:
                        local.copy_(own)
        fill_drawn_buffers(model, drawn, dtype)
        self.held.setdefault((exact, precision), held)

    @classmethod
    def after(cls, told: Told | None) -> OwnValues:
        """Those of a rank whose first runs have told which they are; they are to be found before that."""
        return cls(names=None if told is None else frozenset(told.filled))

    def sorted_names(self) -> tuple[str, ...]:
        """The names, or none before the first run."""
        return tuple(sorted(self.names or ()))

    def initial(self) -> Values:
        """What the parameters held in the run that is nearest to the user's own dtypes."""
        for precision in (Precision.OWN, Precision.FLOAT64):
            if (False, precision) in self.held:
                return self.held[False, precision]
        return {}

    def depending(self, initial: Values | None = None) -> tuple[str, ...]:
        """The names whose values depend on what the sharding is given, or are others each time.

        Args:
            initial: what the parameters held after a sharding of the model with its own initial values, in the user's
                own dtypes; needed where no run is in exact arithmetic.
        """
        if not self.names:
            return ()
        exact, beside = self.held.get((True, Precision.FLOAT64)), self.held.get((False, Precision.FLOAT64))
        pair: tuple[Values | None, Values | None] = (exact, beside) if exact is not None else (initial, self.initial())
        one, other = pair
        if one is None or other is None:
            return tuple(sorted(self.names))
        return tuple(name for name in sorted(self.names) if not torch.equal(one[name], other[name]))


def _find_own(model: Module, state: Values) -> frozenset[str]:
    """The parameters that hold numbers which are none of the state's, and beside any such those that are all zero."""
    parameters = dict(model.named_parameters())
    values: Tensor | None = None
    own, zero = set(), set()
    for name, parameter in parameters.items():
        local = local_value(parameter.detach())
        if local.is_meta:
            raise CannotRunError(
                f"the parameter {name} is on the meta device after the sharding, without values: give it memory "
                "(to_empty) and initialise it"
            )
        if name in state and find_part(local, state[name].double()) is not None:
            continue
        if values is None:
            known = [state[name].double().reshape(-1) for name in parameters if name in state]
            values = torch.cat(known or [torch.zeros(0)]).sort().values
        numbers = local.double().reshape(-1).contiguous()
        at = torch.searchsorted(values, numbers).clamp_(max=max(len(values) - 1, 0))
        found = values[at] == numbers if len(values) else torch.zeros(len(numbers), dtype=torch.bool)
        if bool((~found & (numbers != 0)).any()):
            own.add(name)
        elif len(numbers) and not bool(numbers.any()):
            zero.add(name)
    return frozenset(own | zero if own else own)


def _own_part(full: Tensor | None, parameter: Parameter) -> Tensor | None:
    """This rank's part of the full tensor; None where the parameter does not say which that is."""
    from torch.distributed.tensor import DTensor, Partial, distribute_tensor

    if full is None or full.shape != parameter.shape:
        return None
    if not isinstance(parameter, DTensor):
        return full
    if any(isinstance(one, Partial) for one in parameter.placements):
        return None
    return distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
