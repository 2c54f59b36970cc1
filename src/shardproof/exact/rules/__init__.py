"""One file a family of ops. Importing this package fills the table in registry.py."""

from shardproof.exact.rules import (
    creation,
    elementwise,
    indexing,
    losses,
    matmul,
    movement,
    normalization,
    reductions,
    softmax,
)

__all__ = [
    "creation",
    "elementwise",
    "indexing",
    "losses",
    "matmul",
    "movement",
    "normalization",
    "reductions",
    "softmax",
]
