"""The states of a process's random generators, saved and restored: threads that are ranks have their own."""

from __future__ import annotations

import random
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Randomness:
    """The states at one time.

    Attributes:
        pytorch: of PyTorch's default generator on the CPU.
        python: of the module `random`.
        numpy: of NumPy's legacy generator; None while NumPy is not loaded.
    """

    pytorch: Tensor
    python: Any
    numpy: Any

    @classmethod
    def now(cls) -> Self:
        """The present states."""
        numpy = sys.modules.get("numpy")
        state = None if numpy is None else numpy.random.get_state()
        return cls(pytorch=torch.get_rng_state(), python=random.getstate(), numpy=state)

    def restore(self) -> None:
        """Restore the states."""
        torch.set_rng_state(self.pytorch)
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy"].random.set_state(self.numpy)

    def moved(self) -> list[str]:
        """The names of the generators that have been drawn from, or seeded, since."""
        now = Randomness.now()
        found = [] if torch.equal(self.pytorch, now.pytorch) else ["PyTorch's generator"]
        if self.python != now.python:
            found.append("Python's random")
        if self.numpy is not None and any((a != b).any() if i == 1 else a != b for i, (a, b) in self._numpy_pairs(now)):
            found.append("NumPy's random")
        return found

    def _numpy_pairs(self, now: Randomness) -> Iterator[tuple[int, tuple[Any, Any]]]:
        return enumerate(zip(self.numpy, now.numpy, strict=True))


@contextmanager
def randomness_kept() -> Iterator[None]:
    """Restore the process's generators on exit."""
    before = Randomness.now()
    try:
        yield
    finally:
        before.restore()
