"""Device meshes of ranks that are threads: no two ranks' are equal.

PyTorch keeps what it has worked out for a mesh (the steps of a redistribution, with the lengths of this rank's own
shards) in caches of the process, found by equality of meshes. There two ranks' meshes are equal, and those of an
earlier world too: a rank would be served what holds for another one.
"""

from __future__ import annotations

import itertools
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count(1)  # over all worlds of the process
_thread = threading.local()


def tell_meshes_apart() -> None:
    """From here on, the meshes that the calling thread makes are equal to those of no other thread, past or present."""
    _thread.number = next(_numbers)


@contextmanager
def meshes_told_apart() -> Iterator[None]:
    """Inside, a mesh knows the rank that made it; see `tell_meshes_apart`. On exit, PyTorch forgets those meshes."""
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import _redistribute

    make = DeviceMesh.__init__

    def make_own(self: DeviceMesh, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        # PyTorch compares it for its own world of threads, whose identities are used again by later threads.
        self._thread_id = getattr(_thread, "number", None)
        self._hash = None

    DeviceMesh.__init__ = make_own  # type: ignore[method-assign]
    try:
        yield
    finally:
        DeviceMesh.__init__ = make  # type: ignore[method-assign]
        _redistribute._gen_transform_infos.cache_clear()  # noqa: SLF001 - it has no limit
