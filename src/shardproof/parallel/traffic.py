"""The collectives of a layer as data. Tests hold them to the calls that PyTorch counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardproof.parallel.axis import Axis

CollectiveName = Literal["all_gather", "reduce_scatter", "all_reduce", "all_reduce_max", "all_to_all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The collectives of one forward and one backward, in order, if every input and parameter requires a gradient."""

    forward: tuple[CollectiveName, ...] = ()
    backward: tuple[CollectiveName, ...] = ()

    def __add__(self, other: Traffic) -> Traffic:
        """The traffic of this layer followed by the other."""
        return Traffic(forward=self.forward + other.forward, backward=other.backward + self.backward)


def count_calls(collectives: Iterable[CollectiveName], axis: Axis) -> Counter[str]:
    """How often each op of `torch.distributed` is called to carry out these collectives, as `CommDebugMode` counts.

    By exchange each is one all-to-all, but an all-reduce of more than two ranks, which is two.
    """
    if axis.size == 1:
        return Counter()
    if axis.by_exchange:
        of_all_reduce = ["alltoall_base_"] * (1 if axis.size == 2 else 2)
        exchanges = {"all_reduce": of_all_reduce, "all_reduce_max": ["allreduce_"]}
        return Counter(call for collective in collectives for call in exchanges.get(collective, ["alltoall_base_"]))
    return Counter(_LIBRARY[collective] for collective in collectives)


_LIBRARY = {
    "all_gather": "_allgather_base_",
    "reduce_scatter": "_reduce_scatter_base_",
    "all_reduce": "allreduce_",
    "all_reduce_max": "allreduce_",
    "all_to_all": "alltoall_base_",
}
