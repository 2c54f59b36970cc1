"""Stages of PyTorch's pipelines find the shapes of their messages by a rehearsal before the first microbatch.

A `PipelineStage` that is given no example tensors runs its module, and the backward of it, on memory that nobody has
written: only the shapes of what comes out are used. Such a rehearsal is no part of the step, and is not recorded. Its
numbers are made definite, so that a buffer that it changes differs on one device.
"""

from __future__ import annotations

import sys
from typing import Final

import torch
from torch import Tensor

_MODULE: Final = "torch.distributed.pipelining.stage"
_FUNCTIONS: Final = frozenset({"_forward_metadata_inference", "_backward_metadata_inference"})


def is_rehearsed() -> bool:
    """Whether this code is called by a stage that looks for shapes."""
    if _MODULE not in sys.modules:
        return False
    frame = sys._getframe()  # noqa: SLF001
    while (caller := frame.f_back) is not None:
        frame = caller
        if frame.f_code.co_name in _FUNCTIONS and frame.f_globals.get("__name__") == _MODULE:
            return True
    return False


def write_unwritten(memory: Tensor) -> Tensor:
    """The same memory, with numbers that a rehearsal reads: of (0, 1]; integers are 0, which is in every range.

    A shape without memory, in which DTensor works out the shape of an op's result, is left as it is.
    """
    if type(memory) is not Tensor:
        return memory
    numbers = torch.zeros(memory.shape, dtype=memory.dtype)
    if memory.is_floating_point():
        count = max(memory.numel(), 1)
        numbers = (torch.arange(1, count + 1, dtype=torch.float64) / count)[: memory.numel()].view(memory.shape)
    with torch.no_grad():
        return memory.copy_(numbers)
