"""Segments: where a step in exact arithmetic is cut, so that each segment has a bound of its own.

The degree of a whole transformer is far beyond any prime. A layer's, from fresh residues at its boundary, is not: at a
module's output, at its gradient, at the parameters' gradients and between two steps, each element is recorded, and a
pad added to it (docs/exact.md, theorem 3). An element has the same pad on whichever rank it is. Only tensors are cut
whose every element is on the ranks as it is on one device (`judging/bounds.py`): ranks that hold parts of a sum would
each add the pad.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from shardproof.proving.running.capture import local_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from shardproof.exact import ExactArithmetic
    from shardproof.proving.records import Cuts, Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """The cuts of one run on one device or rank.

    Attributes:
        exact: the run's arithmetic.
        cuts: the inputs and outputs of modules that are cut, with the numbers of each rank's elements.
        rank: whose numbers of elements are taken; None for the one device, whose activations are the full ones.
        parameters: the device's own part before the first step, by name, whose values number its elements.
        state: the full state dict that the parameters' values come from, in float64.
        fresh: parameters and optimizer state start each step from fresh residues; else void elements alone do.
    """

    exact: ExactArithmetic
    cuts: Cuts = field(default_factory=dict)
    rank: int | None = None
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor] = field(default_factory=dict)
    fresh: bool = True

    def cut(self, key: Key, tensor: Tensor, enlarged: int = 1) -> Tensor:
        """Fresh residues in place of a module's input or output, and in the backward in place of its gradient.

        Args:
            key: of the input or output.
            tensor: it.
            enlarged: the gradient is cut as so many times what it is.
        """
        numbers = self.cuts.get((key.phase, key.name, key.call))
        if numbers is None:
            return tensor
        own = None if self.rank is None else numbers[self.rank]
        return self.exact.cut(tensor, str(key), own, enlarged=enlarged)

    def renew_gradient(self, name: str, parameter: Tensor, cut: str) -> None:
        """Fresh residues in place of a parameter's gradient, if activations are cut too and it is not Partial."""
        gradient = parameter.grad
        placements = getattr(gradient, "placements", ())
        if not self.cuts or gradient is None or any(placement.is_partial() for placement in placements):
            return
        numbers = self._numbers_of(self.parameters, name)
        if placements and placements != getattr(parameter, "placements", ()):
            numbers = self._placed_as(name, gradient)
        local = local_value(gradient)
        with torch.no_grad():
            local.copy_(self.exact.cut(local, cut, numbers))

    def renew(self, name: str, tensor: Tensor, cut: str) -> None:
        """Fresh residues in place of a tensor that is laid out as the parameter is: itself, or a state.

        In the places of void elements at least: an update of many elements divides by zero somewhere by chance.
        """
        with self.exact.paused():
            own = local_value(tensor).shape == self.parameters[name].shape
        # Else the whole, on a rank that holds a shard of the parameter.
        numbers = self._numbers_of(self.parameters if own else self.state, name)
        local = local_value(tensor)
        if self.fresh:
            with torch.no_grad():
                local.copy_(self.exact.cut(local, cut, numbers))
        self.exact.fill_void(local, cut, numbers)

    def _numbers_of(self, parameters: Mapping[str, Tensor], name: str) -> Tensor:
        """The numbers of a parameter's elements; exact arithmetic must not see the values, it would take them in."""
        with self.exact.paused():
            return number_parameters({name: parameters[name]})[name]

    def _placed_as(self, name: str, gradient: Any) -> Tensor:
        """The numbers of the elements of a gradient that is not placed as its parameter is."""
        from torch.distributed.tensor import distribute_tensor

        with self.exact.paused():
            numbers = self._numbers_of(self.state, name)
            placed = distribute_tensor(numbers, gradient.device_mesh, gradient.placements, src_data_rank=None)
            return placed.to_local()


def number_parameters(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By name, a number for each element that a device holds, int64: that of the same element on another device.

    Args:
        parameters: before the first step, in float64. All their values are different and not zero, so that the bits of
            a value (all but the last) number its element; zeros are padding, -1.
    """
    return {
        name: (values.contiguous().view(torch.int64) >> 1 & torch.iinfo(torch.int64).max).masked_fill(values == 0, -1)
        for name, values in parameters.items()
    }
