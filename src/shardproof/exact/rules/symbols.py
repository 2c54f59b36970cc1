"""The two symbols of masks, -inf and the lowest finite number, in the few ops that may meet them.

0 times the lowest number is 0 and 1 times it is itself (a mask built as (1 - mask) * finfo.min); a residue plus a
symbol is the symbol, and so is the symbol less a residue; the lowest number less itself is 0 (a row that is masked
whole, less its maximum), and -inf less it is -inf; exp and sigmoid of one are 0, tanh and expm1 are -1; any other use
is refused. 0 times -inf and -inf less -inf are NaN in floating point and errors here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.exact.algebra.lift import LOWEST, NEGATIVE_INFINITY, is_symbol
from shardproof.exact.algebra.residue import Residue
from shardproof.exact.errors import NotANumberError, SymbolError
from shardproof.exact.rules.log_terms import negative_terms, product_of_terms, sum_of_terms, with_zeros

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.exact.algebra.residue import Arithmetic, Operand


def split_symbols(m: Arithmetic, x: Operand) -> tuple[Residue, Tensor | float]:
    """The residues with zeros where the symbols are, and the symbols with zeros elsewhere."""
    if not isinstance(x, Residue):
        if is_symbol(float(x)):
            symbol = NEGATIVE_INFINITY if x == NEGATIVE_INFINITY else LOWEST
            return m.residue(torch.zeros((), dtype=torch.float64)), symbol
        return m.residue(torch.tensor(float(m.constant(x)), dtype=torch.float64)), 0.0
    symbolic = x.tensor.abs() > m.field.half
    return x.masked(~symbolic), torch.where(symbolic, x.tensor, 0.0)


def add_symbols(m: Arithmetic, x: Residue, y: Operand, alpha: float) -> Residue:
    """X + alpha * y where some elements are symbols. Two lowest numbers overflow to -inf, as in floating point."""
    if alpha != 1:
        raise SymbolError(f"-inf or finfo.min is added with alpha = {alpha}; masks are added as they are")
    (a, a_symbols), (b, b_symbols) = split_symbols(m, x), split_symbols(m, y)
    total = sum_of_terms(a, b, a + b)
    symbols = torch.add(torch.as_tensor(a_symbols, dtype=torch.float64), b_symbols)  # lowest + lowest = -inf
    return replace(total, tensor=torch.where(symbols != 0, symbols, total.tensor))


def subtract_from_symbols(m: Arithmetic, x: Residue, y: Operand, alpha: float) -> Residue:
    """X - y where some elements of x are symbols (scores less their maximum).

    The lowest number less itself is 0, as in floating point: the maximum of a row that is masked whole. Minus infinity
    less the lowest number is itself: a running maximum that starts there. Any other symbol that is taken away is
    refused.
    """
    y, y_symbols = split_symbols(m, y)
    taken = torch.as_tensor(y_symbols) != 0
    if not bool(taken.any()):
        return add_symbols(m, x, negative_terms(y, -y), alpha)
    lowest = x.tensor == LOWEST
    known = (lowest | (x.tensor == NEGATIVE_INFINITY)) & (torch.as_tensor(y_symbols) == LOWEST)
    if bool((taken & ~known).any()):
        raise SymbolError("-inf or finfo.min is taken away; masks are added, or elements are chosen by where")
    left = replace(x, tensor=torch.where(taken & lowest, 0.0, x.tensor))
    return add_symbols(m, left, negative_terms(y, -y), alpha)


def multiply_symbols(m: Arithmetic, x: Residue, y: Operand) -> Residue:
    """X * y where some elements are symbols and the other factor is 0 or 1."""
    (a, a_symbols), (b, b_symbols) = split_symbols(m, x), split_symbols(m, y)
    product = a * b
    device = product.tensor.device  # a single number may be on another
    a_symbols, b_symbols = (torch.as_tensor(s, dtype=torch.float64, device=device) for s in (a_symbols, b_symbols))
    symbols = torch.zeros_like(product.tensor)
    for symbol, factor in ((a_symbols, b), (b_symbols, a)):
        here = symbol.expand(symbols.shape) != 0
        factors = factor.tensor.to(device).expand(symbols.shape)
        if bool((here & (factors != 0) & (factors != 1)).any()) or bool(((a_symbols != 0) & (b_symbols != 0)).any()):
            raise SymbolError("-inf or finfo.min is multiplied by something other than 0 or 1")
        if bool((here & (factors == 0) & (symbol == NEGATIVE_INFINITY)).any()):
            raise NotANumberError("0 * -inf is NaN: a mask is multiplied into -inf; add it, or use where")
        symbols = torch.where(here & (factors == 1), symbol.expand(symbols.shape), symbols)
    product = product_of_terms(a, b, product)
    return replace(product, tensor=torch.where(symbols != 0, symbols, product.tensor))


def with_limit(m: Arithmetic, x: Residue, function: Callable[[Residue], Residue], *, limit: float) -> Residue:
    """function(x), and its limit at minus infinity where x is a symbol."""
    symbol = x.tensor < -m.field.half
    found = function(x.masked(~symbol))
    limited = m.residue(torch.where(symbol, limit, found.tensor), found.degree)
    return replace(limited, logs=with_zeros(found).logs) if limit == 0 else limited
