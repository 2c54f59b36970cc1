"""Threads: PyTorch's modes belong to one, so another would compute on residues in rounding arithmetic.

Other threads may run (data loaders, progress bars); an op on a residue in one of them is an error. Threads that were
started before exact arithmetic was entered are not guarded.
"""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shardproof.exact.engine.tensor_trees import PLAIN, tensors_in
from shardproof.exact.errors import ExactArithmeticError
from shardproof.source_lines import user_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch._ops import OpOverload

    from shardproof.exact.engine.tags import TagStore


@contextmanager
def guard_threads(tags: TagStore, members: set[int]) -> Iterator[None]:
    """Inside, every thread that Python's `threading` starts is guarded, for as long as it runs.

    The `members` among them, by their identity, have modes of their own and are not guarded.

    Python runs the function given to `threading.setprofile` first in each new thread.
    """
    before = threading.getprofile()

    def enter_guard(frame: Any, event: Any, argument: Any) -> None:
        _Guard(tags, members).__enter__()  # type: ignore[no-untyped-call]  # it goes with the thread
        sys.setprofile(before)
        if before is not None:
            before(frame, event, argument)

    threading.setprofile(enter_guard)
    try:
        yield
    finally:
        threading.setprofile(before)


class _Guard(TorchDispatchMode):
    """Refuses ops on residues."""

    def __init__(self, tags: TagStore, members: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tags = tags
        self._members = members

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if threading.get_ident() in self._members:
            return func(*args, **kwargs)
        for x in tensors_in((args, kwargs)):
            if (
                type(x) in PLAIN
                and (x.is_floating_point() or x.is_complex())
                and not x.is_meta
                and x.layout == torch.strided
            ):
                tag = self._tags.get(x)
                if tag is not None and not tag.real:
                    raise ExactArithmeticError(
                        f"{func} is called on residues in the thread {threading.current_thread().name!r}, at "
                        f"{user_line()}; exact arithmetic holds in the thread that entered it alone"
                    )
        return func(*args, **kwargs)
