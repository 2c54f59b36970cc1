"""Linear systems by Gaussian elimination modulo the prime: solutions, inverses and determinants are rational functions.

The pivot is the first element of the column that is not zero, so that A = P L U holds, but not with PyTorch's P.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.exact.errors import UnsupportedOpError
from shardproof.exact.rules.products import product_along
from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from shardproof.exact.algebra.degree import Degree
    from shardproof.exact.algebra.residue import Arithmetic, Residue


def _degree_of_solution(a: Residue, b: Residue | None = None) -> Degree:
    """Of A^-1 b: a quotient of determinants (Cramer)."""
    n = a.shape[-1]
    determinant = a.degree.power(max(n, 1)).sum_of(prod(range(1, min(n, 12) + 1)))
    return determinant * determinant.inverse() * (a.degree if b is None else b.degree)


def _reciprocals(m: Arithmetic, x: Tensor) -> Tensor:
    return m.residue(x).inverse().tensor


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
    scale = None if unitriangular else _reciprocals(m, matrix.diagonal(dim1=-2, dim2=-1))
    for i in reversed(range(n)) if upper else range(n):
        known = slice(i + 1, n) if upper else slice(0, i)
        row = x[..., i : i + 1, :]
        if known.stop > known.start:
            row = m.field.reduce_(row - m.field.matmul(matrix[..., i : i + 1, known], x[..., known, :]))
        x[..., i : i + 1, :] = row if scale is None else m.field.multiply(row, scale[..., i, None, None])
    return m.residue(x, _degree_of_solution(a, b))


# LU -------------------------------------------------------------------------------------------------------------------


def factorize(m: Arithmetic, a: Tensor) -> tuple[Tensor, Tensor]:
    """L and U in one tensor, as LAPACK's getrf lays them out, and the rows exchanged, from 1: (*, n, k), (*, min).

    The pivot is the first element that is not zero. A column without one leaves a zero on the diagonal of U.
    """
    rows, columns = a.shape[-2:]
    lu = a.reshape(a.shape[:-2].numel(), rows, columns).clone(memory_format=torch.contiguous_format)
    steps, every = min(rows, columns), torch.arange(lu.shape[0], device=a.device)
    pivots = torch.empty(lu.shape[0], steps, dtype=torch.int32, device=a.device)
    for k in range(steps):
        pivot = k + (lu[:, k:, k] != 0).to(torch.int8).argmax(1)
        row = lu[every, pivot]
        lu[every, pivot] = lu[:, k].clone()
        lu[:, k] = row
        pivots[:, k] = pivot + 1
        if k + 1 < rows:
            scale = m.oracles.look_up(m.oracles.reciprocal(), row[:, k])
            factors = m.field.multiply(lu[:, k + 1 :, k], scale.unsqueeze(-1))
            lu[:, k + 1 :, k] = factors
            rest = lu[:, k + 1 :, k + 1 :] - factors.unsqueeze(-1) * row[:, None, k + 1 :]
            lu[:, k + 1 :, k + 1 :] = m.field.reduce_(rest)
    return lu.reshape(a.shape), pivots.reshape(*a.shape[:-2], steps)


def _solve_factorized(m: Arithmetic, lu: Tensor, pivots: Tensor, b: Tensor, *, adjoint: bool) -> Tensor:
    """X with A X = B, or A^T X = B, from A = P L U."""
    n, batch = lu.shape[-1], torch.broadcast_shapes(lu.shape[:-2], b.shape[:-2])
    permutation = torch.lu_unpack(torch.zeros_like(lu), pivots, unpack_data=False)[0]  # of integers alone
    factors = m.residue(lu)
    b = b.expand(*batch, *b.shape[-2:])
    if adjoint:
        flipped = factors.moved(lambda t: t.transpose(-2, -1))
        y = solve_triangular(m, flipped, m.residue(b), upper=False)
        y = solve_triangular(m, flipped, y, upper=True, unitriangular=True)
        return permutation.expand(*batch, n, n) @ y.tensor
    y = m.residue(permutation.transpose(-2, -1).expand(*batch, n, n) @ b)
    y = solve_triangular(m, factors, y, upper=False, unitriangular=True)
    return solve_triangular(m, factors, y, upper=True).tensor


def _info(a: Tensor) -> Tensor:
    """All went well: a singular matrix voids the trial instead."""
    return torch.zeros(a.shape[:-2], dtype=torch.int32, device=a.device)


@formula("linalg_lu_factor_ex.default")
def lu_factor(
    m: Arithmetic, a: Residue, *, pivot: bool = True, check_errors: bool = False
) -> tuple[Residue, Tensor, Tensor]:
    """A = P L U; which rows are exchanged is not what PyTorch would choose."""
    del check_errors
    if not pivot:
        raise UnsupportedOpError("an LU factorization without pivoting has no exact rule")
    lu, pivots = factorize(m, a.tensor)
    return m.residue(lu, _degree_of_solution(a)), pivots, _info(a.tensor)


@formula("linalg_lu.default")
def lu_parts(m: Arithmetic, a: Residue, *, pivot: bool = True) -> tuple[Residue, Residue, Residue]:
    """P, L and U with A = P L U."""
    factors, pivots, _ = lu_factor(m, a, pivot=pivot)
    p, lower, upper = torch.lu_unpack(factors.tensor, pivots)
    return m.residue(p), m.residue(lower, factors.degree), m.residue(upper, factors.degree)


@formula("lu_unpack.default")
def unpack(
    m: Arithmetic, factors: Residue, pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True
) -> tuple[Residue, Residue, Residue]:
    """P, L and U out of one tensor and the exchanges of rows."""
    p, lower, upper = torch.lu_unpack(factors.tensor, pivots, unpack_data, unpack_pivots)
    return m.residue(p), m.residue(lower, factors.degree), m.residue(upper, factors.degree)


@formula("linalg_lu_solve.default")
def lu_solve(
    m: Arithmetic, lu: Residue, pivots: Tensor, b: Residue, *, left: bool = True, adjoint: bool = False
) -> Residue:
    """X with A X = B, or X A = B, for A = P L U or its transpose."""
    if left:
        return m.residue(_solve_factorized(m, lu.tensor, pivots, b.tensor, adjoint=adjoint), _degree_of_solution(lu, b))
    found = _solve_factorized(m, lu.tensor, pivots, b.tensor.transpose(-2, -1), adjoint=not adjoint)
    return m.residue(found.transpose(-2, -1), _degree_of_solution(lu, b))


@formula("linalg_inv_ex.default")
def inverse(m: Arithmetic, a: Residue, *, check_errors: bool = False) -> tuple[Residue, Tensor]:
    """A^-1."""
    del check_errors
    unit = torch.eye(a.shape[-1], dtype=torch.float64, device=a.tensor.device).expand(a.shape)
    found = _solve_factorized(m, *factorize(m, a.tensor), unit, adjoint=False)
    return m.residue(found, _degree_of_solution(a)), _info(a.tensor)


@formula("_linalg_solve_ex.default")
def solve(
    m: Arithmetic, a: Residue, b: Residue, *, left: bool = True, check_errors: bool = False
) -> tuple[Residue, Residue, Tensor, Tensor]:
    """X with A X = B, or X A = B; B may be vectors."""
    del check_errors
    lu, pivots = factorize(m, a.tensor)
    factors = m.residue(lu, _degree_of_solution(a))
    vectors = b.ndim == 1 or (b.ndim + 1 == a.ndim and b.shape == a.shape[:-1])
    columns = b.moved(lambda t: t.unsqueeze(-1)) if vectors else b
    found = lu_solve(m, factors, pivots, columns, left=left or vectors)
    found = found.moved(lambda t: t.squeeze(-1)) if vectors else found
    return found, factors, pivots, _info(a.tensor)


@formula("_linalg_det.default")
def determinant(m: Arithmetic, a: Residue) -> tuple[Residue, Residue, Tensor]:
    """The product of U's diagonal, its sign changed for each exchange of rows."""
    # PyTorch factorizes A^T where A lies row by row, and autograd's formula takes that for granted.
    lu, pivots = factorize(m, a.tensor.mT if a.tensor.is_contiguous() else a.tensor)
    unmoved = torch.arange(1, pivots.shape[-1] + 1, device=pivots.device)
    exchanges = (pivots != unmoved).sum(-1, keepdim=True)
    diagonal = torch.cat((lu.diagonal(dim1=-2, dim2=-1), (1 - 2 * (exchanges % 2)).to(torch.float64)), -1)
    found = product_along(m, m.residue(diagonal), -1)
    return m.residue(found.tensor, _degree_of_solution(a)), m.residue(lu, _degree_of_solution(a)), pivots
