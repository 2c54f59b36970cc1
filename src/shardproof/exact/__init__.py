"""Exact arithmetic: ordinary PyTorch code, carried out modulo a prime. It knows nothing of sharding."""

from shardproof.exact.algebra.bound import Bound, bound_of, trials_needed
from shardproof.exact.algebra.cut import Cut
from shardproof.exact.algebra.degree import Degree
from shardproof.exact.algebra.no_bound import NoBound
from shardproof.exact.algebra.residue import VOID
from shardproof.exact.engine.mode import ExactArithmetic
from shardproof.exact.errors import (
    ExactArithmeticError,
    LeavingFieldError,
    NotANumberError,
    RandomDrawError,
    SymbolError,
    UnsupportedOpError,
)
from shardproof.exact.rules.registry import formula, moves, sums
from shardproof.exact.zero_divisions import say_zero_divisions

__all__ = [
    "VOID",
    "Bound",
    "Cut",
    "Degree",
    "ExactArithmetic",
    "ExactArithmeticError",
    "LeavingFieldError",
    "NoBound",
    "NotANumberError",
    "RandomDrawError",
    "SymbolError",
    "UnsupportedOpError",
    "bound_of",
    "formula",
    "moves",
    "say_zero_divisions",
    "sums",
    "trials_needed",
]
