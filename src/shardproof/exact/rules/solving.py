"""Linear systems by Gaussian elimination modulo the prime: solutions, inverses and determinants are rational functions.

The pivot is the first element of the column that is not zero, so rows change places as in PyTorch only by chance: of a
factorization nothing is given out but what autograd's own backward takes up again.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.exact.arithmetic import Residue
from shardproof.exact.registry import formula

if TYPE_CHECKING:
    from shardproof.exact.arithmetic import Arithmetic
    from shardproof.exact.degree import Degree


def _solved(a: Residue, b: Residue | None = None) -> Degree:
    """Of A^-1 b: a quotient of determinants (Cramer)."""
    n = a.shape[-1]
    determinant = a.degree.power(max(n, 1)).sum_of(prod(range(1, min(n, 12) + 1)))
    return determinant * determinant.inverse() * (a.degree if b is None else b.degree)


def _inverses(m: Arithmetic, x: Tensor) -> Tensor:
    m.zero_divisions += int((x == 0).sum())
    return m.oracles.look_up(m.oracles.reciprocal(), x)


@formula("linalg_solve_triangular.default")
def solve_triangular(
    m: Arithmetic, a: Residue, b: Residue, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Residue:
    """X with A X = B, or X A = B; by substitution, row after row."""
    if not left:
        swapped = [x.moved(lambda t: t.transpose(-2, -1)) for x in (a, b)]
        found = solve_triangular(m, *swapped, upper=not upper, unitriangular=unitriangular)
        return found.moved(lambda t: t.transpose(-2, -1))
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    matrix = a.tensor.expand(*batch, *a.shape[-2:])
    x = b.tensor.expand(*batch, *b.shape[-2:]).clone(memory_format=torch.contiguous_format)
    n = matrix.shape[-1]
    scale = None if unitriangular else _inverses(m, matrix.diagonal(dim1=-2, dim2=-1))
    for i in reversed(range(n)) if upper else range(n):
        known = slice(i + 1, n) if upper else slice(0, i)
        row = x[..., i : i + 1, :]
        if known.stop > known.start:
            row = m.field.reduce_(row - m.field.matmul(matrix[..., i : i + 1, known], x[..., known, :]))
        x[..., i : i + 1, :] = row if scale is None else m.field.multiply(row, scale[..., i, None, None])
    return m.residue(x, _solved(a, b))


def eliminate(m: Arithmetic, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A^-1 B and det A for batches of square matrices, (*, n, n) and (*, n, k). Gauss and Jordan.

    A singular matrix counts as a division by zero.
    """
    n, batch = a.shape[-1], a.shape[:-2]
    both = torch.cat((a, b), -1).reshape(-1, n, n + b.shape[-1]).clone()
    determinant = torch.ones(both.shape[0], dtype=torch.float64, device=a.device)
    every = torch.arange(both.shape[0], device=a.device)
    for i in range(n):
        pivot = i + (both[:, i:, i] != 0).to(torch.int8).argmax(1)
        rows = both[every, pivot].clone()
        both[every, pivot] = both[:, i]
        determinant = m.field.multiply(determinant, torch.where(pivot == i, rows[:, i], -rows[:, i]))
        rows = m.field.multiply(rows, _inverses(m, rows[:, i]).unsqueeze(-1))
        both[:, i] = 0.0
        factors = both[:, :, i : i + 1].clone()
        both = m.field.reduce_(both - factors * rows.unsqueeze(1))
        both[:, i] = rows
    return both[..., n:].reshape(*batch, n, -1), determinant.reshape(batch)


@formula("linalg_inv_ex.default")
def inverse(m: Arithmetic, a: Residue, *, check_errors: bool = False) -> tuple[Residue, Tensor]:
    """A^-1; the info says that all went well, because a singular matrix voids the trial."""
    del check_errors
    unit = torch.eye(a.shape[-1], dtype=torch.float64, device=a.tensor.device).expand(a.shape)
    found, _ = eliminate(m, a.tensor, unit)
    return m.residue(found, _solved(a)), torch.zeros(a.shape[:-2], dtype=torch.int32, device=a.tensor.device)
