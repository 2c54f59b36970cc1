"""FSDP2's division of gradients, as the user's own dtypes have it, in the runs that hold float64 in their place.

PyTorch asks for the dtype of a reduction: float32 and bfloat16 are divided by the collective, float16 and float64
before it and after it. The two ways are two programs, and one of them may be wrong (torch 2.13 divides twice in the
second way where a gradient divide factor is set over one rank).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.fsdp._fully_shard import _fsdp_collectives

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ASKED = "_get_gradient_divide_factors"
_DIVIDED_BY_THE_COLLECTIVE = (torch.float32, torch.bfloat16)


@contextmanager
def divided_as_in(dtypes: Iterable[torch.dtype]) -> Iterator[None]:
    """Inside, FSDP2 divides float64 as it divides the dtypes of the user's model.

    Where the floating dtypes are not all float32 and bfloat16, nothing is changed: float16 is divided as float64 is.
    For the whole process: to be entered outside the ranks that are threads.
    """
    floating = {dtype for dtype in dtypes if dtype.is_floating_point}
    if not floating or not floating.issubset(_DIVIDED_BY_THE_COLLECTIVE):
        yield
        return
    original = getattr(_fsdp_collectives, _ASKED)

    def choose_factors(
        reduce_scatter_group: Any, all_reduce_group: Any, reduce_dtype: torch.dtype, *rest: Any, **named: Any
    ) -> Any:
        asked = torch.float32 if reduce_dtype == torch.float64 else reduce_dtype
        return original(reduce_scatter_group, all_reduce_group, asked, *rest, **named)

    setattr(_fsdp_collectives, _ASKED, choose_factors)
    try:
        yield
    finally:
        setattr(_fsdp_collectives, _ASKED, original)
