"""Lower bounds of a step's time: the step without its collectives, the collectives alone, DTensor with silent ones."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.testing._internal.distributed import fake_pg  # registers the backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

_SENDS = "shardproof.parallel.collectives.dist.all_to_all_single"


class _Nothing:
    """A collective that has finished."""

    def wait(self) -> None:
        """Return at once."""


@contextmanager
def without_collectives() -> Iterator[None]:
    """Send nothing: two ranks' swap copies the sent tensor; arithmetic on uninitialised memory may be slower."""

    def keep(received: Tensor, sent: Tensor, *_args: object, **_kwargs: object) -> _Nothing:
        received.copy_(sent)
        return _Nothing()

    with patch(_SENDS, keep):
        yield


def record_collectives(step: Callable[[], object]) -> Callable[[], None]:
    """Run a step, and return a function that repeats its collectives and does nothing else."""
    calls: list[tuple[Tensor, Tensor, list[int], list[int], Any]] = []
    send = dist.all_to_all_single

    def note(
        received: Tensor, sent: Tensor, sizes: list[int], lengths: list[int], *, group: Any, async_op: bool
    ) -> Any:
        calls.append((received.clone(), sent.clone(), sizes, lengths, group))
        return send(received, sent, sizes, lengths, group=group, async_op=async_op)

    with patch(_SENDS, note):
        step()

    def replay() -> None:
        for received, sent, sizes, lengths, group in calls:
            send(received, sent, sizes, lengths, group=group, async_op=True).wait()

    return replay


def mesh_without_communication() -> DeviceMesh:
    """A mesh of the same ranks whose collectives return at once: what is left of a DTensor's step is its own work."""
    assert fake_pg is not None
    return DeviceMesh.from_group(dist.new_group(backend="fake"), "cpu", mesh_dim_names=("tp",))
