"""Designs of an oracle, a keyed permutation of the field, against the one chosen: 2**22 residues, two threads.

The chosen one is a float32 table read with int32 indices, block by block. The hash is splitmix64's finaliser with one
more round, the cheapest that mixes well; it is no permutation, and its remainder takes several passes. The power map is
an example of a permutation by arithmetic; with its known degree it cannot be an oracle, and only its time is compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks.measure import Row, interleave
from shardproof.exact.algebra.blocks import blocks
from shardproof.exact.algebra.field import Field, choose_prime
from shardproof.exact.algebra.oracles import Oracles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

COUNT = 1 << 22
FIELD = Field(choose_prime(1))
# Splitmix64's multipliers, as signed integers.
MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64, 0x9E3779B97F4A7C15 - 2**64)


def rows() -> Iterable[Row]:
    """One row for each alternative; the ratio is our time over its time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(-FIELD.half, FIELD.half + 1, (COUNT,), generator=generator).double()
        timings = interleave({name: lambda f=f: f(x) for name, f in designs().items()}, rounds=9)
    finally:
        torch.set_num_threads(threads)
    ours = timings.pop("ours")
    for name, other in timings.items():
        yield Row(
            what=f"exact: an oracle of {COUNT} residues",
            ours=ours.median,
            peer_name=name,
            peer=other.median,
            unit="ms",
            target=1.25,  # no slower, but for noise
            spread=ours.spread,
        )


def designs() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Functions of residues, by name."""
    oracles = Oracles(field=FIELD, key=0)
    table = oracles.permutation("gelu")
    wide, whole = table.double(), table.int()
    half = FIELD.half

    def index(x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.int32).add_(half)

    def blockwise(f: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        def run(x: torch.Tensor) -> torch.Tensor:
            result = torch.empty_like(x)
            for target, block in blocks(result, x):
                target.copy_(f(block))
            return result

        return run

    return {
        "ours": lambda x: oracles.look_up(table, x),
        "float64 table": blockwise(lambda x: wide.index_select(0, index(x))),
        "int32 table": blockwise(lambda x: whole.index_select(0, index(x))),
        "int64 indices": blockwise(lambda x: table.index_select(0, x.to(torch.int64).add_(half))),
        "table[index]": blockwise(lambda x: table[index(x)]),
        "torch.take": blockwise(lambda x: table.take(index(x).long())),
        "in one go": lambda x: table.index_select(0, index(x)).double(),
        "3 rounds multiply-xorshift, %": blockwise(_hashed),
        "x**(2**16 + 1), 17 products": blockwise(_powered),
    }


def _hashed(x: torch.Tensor) -> torch.Tensor:
    mixed = x.to(torch.int64)
    for multiplier in MULTIPLIERS:
        mixed = (mixed ^ (mixed >> 30)) * multiplier
    return (mixed ^ (mixed >> 31)).remainder(FIELD.prime).double() - FIELD.half


def _powered(x: torch.Tensor) -> torch.Tensor:
    power = x
    for _ in range(16):
        power = FIELD.multiply(power, power)
    return FIELD.multiply(power, x)
