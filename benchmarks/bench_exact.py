"""Exact arithmetic, one prime, against the same computation in float32, with two threads.

Matrix products, training steps, and a step on tiny tensors, which is all Python overhead. The first step also builds
the oracles' tables and converts the program's tensors to residues, so it has a row of its own; the other rows are later
steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.measure import Row, interleave
from shardproof.exact import ExactArithmetic
from shardproof.exact.algebra.field import Field, choose_prime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

THREADS = 2
FIELD = Field(choose_prime(1))


def rows() -> Iterable[Row]:
    """Products, then steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        for side in (1024, 2048):
            yield _product(side, side, side, target=2.3)
        for inner in (4096, 14336, 65536):
            yield _product(512, inner, 512, target=2.5)
        yield from _steps("MLP 1024-4096-1024, gelu, SGD", mlp_step, target=5)
        yield from _steps("transformer block, AdamW, clipping", block_step, target=8)
        yield from _steps("tiny block, hidden 32, AdamW, clipping", tiny_step, target=20)
    finally:
        torch.set_num_threads(threads)


# Matrix products ------------------------------------------------------------------------------------------------------


def _product(m: int, k: int, n: int, *, target: float) -> Row:
    """(m, k) @ (k, n); the result is checked against int64 along a row and a column."""
    generator = torch.Generator().manual_seed(0)
    a, b = (
        torch.randint(-FIELD.half, FIELD.half + 1, shape, generator=generator).double() for shape in ((m, k), (k, n))
    )
    _check_product(a, b)
    x, y = a.float(), b.float()
    timings = interleave({"float32": lambda: x @ y, "exact": lambda: FIELD.matmul(a, b)})
    return Row(
        what=f"exact: product ({m}, {k}) @ ({k}, {n})",
        ours=timings["exact"].median,
        peer_name="float32 product",
        peer=timings["float32"].median,
        unit="ms",
        target=target,
        spread=timings["exact"].spread,
    )


def _check_product(a: torch.Tensor, b: torch.Tensor) -> None:
    found, p = FIELD.matmul(a, b), FIELD.prime
    row = (a[:1].long().T * b.long() % p).sum(0) % p
    column = (a.long() * b[:, :1].long().T % p).sum(1) % p
    if not (torch.equal(found[0].long() % p, row) and torch.equal(found[:, 0].long() % p, column)):
        msg = f"the product of {tuple(a.shape)} and {tuple(b.shape)} is wrong"
        raise AssertionError(msg)


# Steps ----------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A pre-norm transformer block, attention written out."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(hidden), nn.LayerNorm(hidden)])
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.up = nn.Linear(hidden, 4 * hidden)
        self.down = nn.Linear(4 * hidden, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, sequence, hidden) -> the same."""
        batch, length, hidden = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * (hidden // self.heads) ** -0.5
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(future, float("-inf")).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, hidden))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


@dataclass(frozen=True, slots=True)
class Training:
    """A model's training step."""

    net: nn.Module
    step: Callable[[], None]

    def step_and_fill(self, exact: ExactArithmetic) -> None:
        """One step, and fresh residues where an update divided by zero, as the prover draws them between steps.

        Of millions of elements one usually does, and the next step's every activation would come of it.
        """
        self.step()
        for name, parameter in self.net.named_parameters():
            exact.fill_void(parameter.detach(), name, torch.arange(parameter.numel()).view_as(parameter))


def mlp_step() -> Training:
    """Batch 256."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 1024))
    x, y = torch.randn(2, 256, 1024)
    return _step(net, x, y, torch.optim.SGD(net.parameters(), lr=0.01))


def block_step() -> Training:
    """Hidden 512, 8 heads, sequence 256, batch 4."""
    return _block_step(512, 8, 256, 4)


def tiny_step() -> Training:
    """Hidden 32, 4 heads, sequence 8, batch 2: all overhead."""
    return _block_step(32, 4, 8, 2)


def _block_step(hidden: int, heads: int, length: int, batch: int) -> Training:
    torch.manual_seed(0)
    net = Block(hidden, heads)
    x, y = torch.randn(2, batch, length, hidden)
    return _step(net, x, y, torch.optim.AdamW(net.parameters(), lr=1e-3), clip=True)


def _step(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, optimizer: torch.optim.Optimizer, *, clip: bool = False
) -> Training:
    def run() -> None:
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        if clip:
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return Training(net, run)


def _steps(what: str, make: Callable[[], Training], *, target: float) -> Iterator[Row]:
    """The steady step, then the first one."""
    plain, ours = make().step, make()
    plain()
    with ExactArithmetic(seed=1) as exact:
        ours.step_and_fill(exact)  # tables and conversion

        def paused() -> None:
            with exact.paused():
                plain()

        steady = interleave({"float32": paused, "exact": lambda: ours.step_and_fill(exact)})

    fresh = [(make().step, ExactArithmetic(seed=1)) for _ in range(4)]

    def first() -> None:
        step, exact = fresh.pop()
        with exact:
            step()

    started = interleave({"float32": plain, "exact": first}, rounds=3)
    # No target was set for the first step; this one limits it to the cost of a few steps.
    for name, timings, limit in (("a step", steady, target), ("the first step", started, 10 * target)):
        yield Row(
            what=f"exact: {what}, {name}",
            ours=timings["exact"].median,
            peer_name="float32 step",
            peer=timings["float32"].median,
            unit="ms",
            target=limit,
            spread=timings["exact"].spread,
        )
