"""One thread: tensors so small that handing them out to several takes longer than computing them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

# Elements of the parameters. Threads that have nothing to do wait for each other in loops, which on cores that others
# use as well has made a proof ten times slower.
_SMALL = 1 << 18


@contextmanager
def one_thread_if_small(state: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, PyTorch computes with one thread, in ranks that are threads too, if the state is small."""
    before = torch.get_num_threads()
    if sum(tensor.numel() for tensor in state.values()) > _SMALL:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
