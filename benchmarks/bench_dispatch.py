"""The overhead of exact arithmetic for one op: tiny tensors, one thread, over PyTorch's own time for the op.

What is left on tiny tensors is Python and PyTorch's calls into it. The targets are microseconds.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from benchmarks.measure import Row
from shardproof.exact import ExactArithmetic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

ROUNDS, CALLS, ALLOWED = 8, 200, 40
OPS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a + b": lambda a, b: a + b,
    "a @ b": lambda a, b: a @ b,
    "a * 0.5": lambda a, _: a * 0.5,
    "a.t()": lambda a, _: a.t(),
    "a.add_(b)": lambda a, b: a.add_(b),
    "a.exp()": lambda a, _: a.exp(),
}


def rows() -> Iterable[Row]:
    """One op each; then their mean."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {name: _overhead(run) for name, run in OPS.items()}
    finally:
        torch.set_num_threads(threads)
    for name, microseconds in [*found.items(), ("mean of these", sum(found.values()) / len(found))]:
        yield Row(
            what=f"exact: overhead of one op, 4 x 4: {name}",
            ours=microseconds,
            peer_name="allowed",
            peer=ALLOWED,
            unit="us",
            target=1,
        )


def _overhead(run: Callable[[Tensor, Tensor], object]) -> float:
    """In microseconds a call."""
    values = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))
    leaf = values[0].clone().requires_grad_()
    with torch.no_grad():
        native = _least(run, values[0].clone(), values[1].clone())
        with ExactArithmetic(seed=1):
            exact = _least(run, leaf * 1, leaf * 2)
    return exact - native


def _least(run: Callable[[Tensor, Tensor], object], a: Tensor, b: Tensor) -> float:
    """The least of several rounds, of the CPU's time and not the clock's: other work on the machine only adds."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(CALLS):
            run(a, b)
        rounds.append((time.process_time() - start) / CALLS * 1e6)
    return min(rounds)
