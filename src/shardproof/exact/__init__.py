"""Exact arithmetic: ordinary PyTorch code, carried out modulo a prime. It knows nothing of sharding."""

from shardproof.exact.bound import Bound, trials_needed
from shardproof.exact.errors import (
    ExactArithmeticError,
    LeavingFieldError,
    NotANumberError,
    RandomDrawError,
    SymbolError,
    UnsupportedOpError,
)
from shardproof.exact.mode import ExactArithmetic
from shardproof.exact.registry import formula, moves, sums

__all__ = [
    "Bound",
    "ExactArithmetic",
    "ExactArithmeticError",
    "LeavingFieldError",
    "NotANumberError",
    "RandomDrawError",
    "SymbolError",
    "UnsupportedOpError",
    "formula",
    "moves",
    "sums",
    "trials_needed",
]
