"""`Configuration`: a sharded training step under a name, as plain data: to be proved, and run without the prover."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from shardproof.proving.prove import prove

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

    from shardproof.proving.findings import Proof
    from shardproof.proving.step import Step

    Parallelize = Callable[[nn.Module, DeviceMesh], nn.Module]
    Candidate = Callable[[Any], None]

CAST = 1e-4  # the tolerance of a model that computes a softmax or a norm in float32 whatever its dtype is


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One sharded training step.

    Attributes:
        name: its own among all.
        make_step: builds the step; called only when it is proved or run, so that a table of them costs nothing.
        parallelize: the sharding of the model; or
        candidate: a training step of the user's own.
        mesh: the sizes of the mesh's axes by name.
        allow: patterns of findings that the user knows of and allows, as `prove` takes them.
        around: a context around all ranks, where PyTorch itself has one for the whole process.
        tolerance: relative, of the losses in ordinary float64; above the default where the model itself casts to a
            lower dtype in its forward, which rounds in float64 too.
        draws_anew: the sharding draws its own initial values after it has cut the parameters.
        dropout: whether the ordinary run keeps dropout, which ranks may then draw otherwise than one device does.
    """

    name: str
    make_step: Callable[[], Step]
    parallelize: Parallelize | None = None
    candidate: Candidate | None = None
    mesh: Mapping[str, int]
    allow: tuple[str, ...] = ()
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    tolerance: float = 1e-6
    draws_anew: bool = False
    dropout: bool = False

    @property
    def devices(self) -> int:
        """How many ranks."""
        return prod(self.mesh.values())

    @property
    def data_axes(self) -> tuple[str, ...]:
        """The axes along which `parallelize` gets rows of the batch of its own: by name, as the prover takes them."""
        named = tuple(axis for axis in self.mesh if "dp" in axis or "data" in axis or axis == "ep")
        return named if self.parallelize else ()

    def prove(self) -> Proof:
        """One trial."""
        with self.around():
            return prove(
                self.make_step(),
                parallelize=self.parallelize,
                candidate=self.candidate,
                mesh=dict(self.mesh),
                allow=self.allow,
                trials=1,
            )


def sharded(name: str, step: Step, parallelize: Parallelize, devices: int, **settings: Any) -> Configuration:
    """A model sharded by `parallelize` over tp, under its name and the number of ranks."""
    name, mesh = f"{name}, {devices} ranks", {"tp": devices}
    return Configuration(name=name, make_step=lambda: step, parallelize=parallelize, mesh=mesh, **settings)


def on_mesh(name: str, step: Step, parallelize: Parallelize, mesh: Mapping[str, int], **settings: Any) -> Configuration:
    """A model sharded over the axes of a mesh, under its name and their sizes."""
    name = f"{name}, {' x '.join(f'{axis} {size}' for axis, size in mesh.items())}"
    return Configuration(name=name, make_step=lambda: step, parallelize=parallelize, mesh=mesh, **settings)


def trained(name: str, step: Step, candidate: Candidate, devices: int, **settings: Any) -> Configuration:
    """A training step of the user's own, under its name and the number of ranks."""
    name, mesh = f"{name}, {devices} ranks", {"tp": devices}
    return Configuration(name=name, make_step=lambda: step, candidate=candidate, mesh=mesh, **settings)
