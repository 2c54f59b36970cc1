"""One file a family of ops. Importing this package fills the table in registry.py."""

from shardproof.exact.rules import (
    creation,
    exponentials,
    indexing,
    kinks,
    losses,
    matmul,
    movement,
    normalization,
    oracles_of_one,
    order,
    powers,
    reductions,
    ring,
    softmax,
)

__all__ = [
    "creation",
    "exponentials",
    "indexing",
    "kinks",
    "losses",
    "matmul",
    "movement",
    "normalization",
    "oracles_of_one",
    "order",
    "powers",
    "reductions",
    "ring",
    "softmax",
]
