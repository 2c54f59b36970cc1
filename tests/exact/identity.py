"""One identity: two ways of writing a function, and a third that is wrong."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Two ways of writing a function of tensors, and a third that is wrong."""

    name: str
    left: Callable
    right: Callable
    wrong: Callable = None
    shapes: Callable = lambda n: [(3, n)]
    positive: bool = False
    places: int = 8  # agreement in float64
    backward: bool = True  # false: only the result is promised; or, of what is not promised, only the gradient differs
