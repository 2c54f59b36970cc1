"""Simulated ranks for code that is not written against `Communicator`: DTensor, transformers' plans, torch.distributed.

The only file that knows LocalTensorMode, PyTorch's private simulator: every tensor stands for one tensor a rank, each op
runs on all of them in turn, and collectives exchange them in this process.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.distributed as dist
from torch import Tensor

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRanks:
    """N ranks in this process that share one device mesh."""

    mesh: DeviceMesh

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the code inside as every rank. Enter it inside any other mode, never around one."""
        from torch.distributed._local_tensor import LocalTensorMode

        with LocalTensorMode(self.mesh.size()):
            yield

    def values(self, tensor: Tensor) -> dict[int, Tensor]:
        """Each rank's own plain tensor, whatever wraps them. A plain tensor is every rank's."""
        from torch.distributed._local_tensor import LocalTensor

        inner = unwrap(tensor)
        if isinstance(inner, LocalTensor):
            return {rank: unwrap(one) for rank, one in inner._local_tensors.items()}  # noqa: SLF001 - no public name
        return dict.fromkeys(range(self.mesh.size()), inner)


def unwrap(tensor: Tensor) -> Tensor:
    """The local tensor of a DTensor, and the result of a collective under way; other tensors as they are."""
    from torch.distributed._functional_collectives import AsyncCollectiveTensor
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        tensor = tensor._local_tensor  # noqa: SLF001 - to_local() would record an autograd node
    if isinstance(tensor, AsyncCollectiveTensor):
        tensor = tensor.wait()
    return tensor


@contextmanager
def simulated_ranks(shape: tuple[int, ...], names: tuple[str, ...]) -> Iterator[SimulatedRanks]:
    """A mesh of simulated ranks; the default process group is theirs until the end.

    Raises:
        CannotRunError: torch.distributed is already initialised in this process.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise CannotRunError(
            "torch.distributed is already initialised in this process; simulated ranks need its default process group: "
            "run them in a process of their own, or destroy_process_group() first"
        )
    size = 1
    for length in shape:
        size *= length
    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    try:
        yield SimulatedRanks(mesh=init_device_mesh("cpu", shape, mesh_dim_names=names))
    finally:
        dist.destroy_process_group()
