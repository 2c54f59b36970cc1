"""Measuring: a run is recorded as what is measured of its tensors beside those of an earlier run.

Tensors of parameters, of which the most memory is, are measured as they come and are not kept. Activations are kept
until the run has ended: what a backward computes again is found by its values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from shardproof.proving.deviation import Deviation, measure_deviation
from shardproof.proving.records import OF_PARAMETERS, RESULTS, Key, Records
from shardproof.proving.running.capture import Recorder, see_numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

M = TypeVar("M")


@dataclass(slots=True, kw_only=True)
class MeasuringRecorder(Recorder, Generic[M]):
    """Records a run in ordinary arithmetic beside an earlier one.

    Attributes:
        beside: the earlier one's records.
        measure: of a tensor, and of the earlier one under the same key.
        keeps: the tensors are kept too.
        measured: by key, of what both runs have.
    """

    beside: Records
    measure: Callable[[Key, Tensor, Tensor], M]
    keeps: bool = False
    measured: dict[Key, M] = field(default_factory=dict)

    def has(self, key: Key) -> bool:
        """Whether a tensor is recorded under a key, or measured."""
        return key in self.records.tensors or key in self.measured

    def keep(self, key: Key, tensor: Tensor, *, as_shift: bool) -> None:
        """Measure a tensor of a parameter; put any other into the records."""
        if self.keeps or key.phase not in OF_PARAMETERS or key not in self.beside.tensors:
            Recorder.keep(self, key, tensor, as_shift=as_shift)
        else:
            self.measured[key] = self.measure(key, see_numbers(tensor), self.beside.tensors[key].values)

    def finish(self) -> dict[Key, M]:
        """What was measured, once the run has ended: by key, in the order of the earlier one."""
        found = {}
        for key, earlier in self.beside.tensors.items():
            if key in self.measured:
                found[key] = self.measured[key]
            elif key in self.records.tensors:
                found[key] = self.measure(key, self.records.tensors[key].values, earlier.values)
        if not self.keeps:
            self.records.tensors.clear()
        return found


def measure_noise(key: Key, actual: Tensor, expected: Tensor) -> Deviation | None:
    """How far a tensor of a run that rounds is from the one in float64."""
    return measure_deviation(actual, expected, masks=key.phase not in RESULTS)
