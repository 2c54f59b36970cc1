"""PyTorch kept quiet while a step runs: compiled functions run eagerly, and what the report tells is not logged."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

# Writes a traceback of PyTorch's own before it raises an error over shapes, which ends up in our message.
_LOGGER: Final = "torch._subclasses.fake_tensor"


@contextmanager
def quiet_pytorch() -> Iterator[None]:
    """Run what is compiled eagerly: the prover's hooks would be compiled with it, at length, for a run of two steps.

    Compiling may change rounding and nothing else; exact arithmetic never sees compiled code. For the whole process: to
    be entered outside the ranks that are threads.
    """
    logger = logging.getLogger(_LOGGER)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using `torch.compile.* when there are global hooks on modules")
            # It draws the same for all shards on CPUs: see `dtensor_draws.py`, and masks that DTensor draws.
            warnings.filterwarnings("ignore", message="DTensor random operators may not have complete support")
            # A write into such an output would lose gradients of the candidate, and that the proof shows.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
            yield
    finally:
        logger.setLevel(level)
