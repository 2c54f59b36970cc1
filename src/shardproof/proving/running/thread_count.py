"""Thread count: PyTorch computes small models with one thread, which is faster than distributing them over several."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

# Elements of the parameters. Idle threads wait in busy loops, which made a proof ten times slower on cores that other
# processes use as well.
_SMALL = 1 << 18


@contextmanager
def one_thread_if_small(state: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, PyTorch computes with one thread if the state is small; also in ranks that are threads."""
    before = torch.get_num_threads()
    if sum(tensor.numel() for tensor in state.values()) > _SMALL:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
