"""`Configuration`: a correct sharding under a name, to be proved in whichever process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.proving.prove import prove

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

    from shardproof.proving.findings import Proof
    from shardproof.proving.running.candidate import Run
    from shardproof.proving.step import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One correct sharding: its name, and its proof of one trial."""

    name: str
    prove: Callable[[], Proof]


def sharded(
    name: str, step: Step, parallelize: Callable[[nn.Module, DeviceMesh], nn.Module], devices: int
) -> Configuration:
    """A model sharded by `parallelize`, under its name and the number of ranks."""
    return Configuration(
        name=f"{name}, {devices} ranks",
        prove=lambda: prove(step, parallelize=parallelize, devices=devices, trials=1),
    )


def on_mesh(
    name: str, step: Step, parallelize: Callable[[nn.Module, DeviceMesh], nn.Module], mesh: Mapping[str, int]
) -> Configuration:
    """A model sharded over the axes of a mesh, under its name and their sizes."""
    return Configuration(
        name=f"{name}, {' x '.join(f'{axis} {size}' for axis, size in mesh.items())}",
        prove=lambda: prove(step, parallelize=parallelize, mesh=mesh, trials=1),
    )


def trained(name: str, step: Step, candidate: Callable[[Run], None], devices: int) -> Configuration:
    """A training step of the user's own, under its name and the number of ranks."""
    return Configuration(
        name=f"{name}, {devices} ranks",
        prove=lambda: prove(step, candidate=candidate, devices=devices, trials=1),
    )
