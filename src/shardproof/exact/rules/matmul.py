"""Matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from shardproof.exact.algebra.residue import Arithmetic, Residue


@formula("mm.default", "bmm.default")
def product(_m: Arithmetic, a: Residue, b: Residue) -> Residue:
    """(..., M, K) @ (..., K, N) -> (..., M, N)."""
    return a @ b


@formula("addmm.default", "baddbmm.default")
def product_and_sum(m: Arithmetic, c: Residue, a: Residue, b: Residue, *, beta: float = 1, alpha: float = 1) -> Residue:
    """Beta * c + alpha * (a @ b)."""
    if alpha == 1:
        return a.matmul(b, plus=scaled(c, beta))
    return scaled(c, beta).plus(a @ b, times=m.constant(alpha))


@formula("addbmm.default")
def summed_batch_product(
    m: Arithmetic, c: Residue, a: Residue, b: Residue, *, beta: float = 1, alpha: float = 1
) -> Residue:
    """Beta * c + alpha * sum over the batch of (a @ b)."""
    return scaled(c, beta).plus((a @ b).sum(0), times=m.constant(alpha))


@formula("mv.default")
def matrix_vector(_m: Arithmetic, a: Residue, x: Residue) -> Residue:
    """(M, K) @ (K,) -> (M,)."""
    return (a @ x.moved(lambda t: t.unsqueeze(-1))).moved(lambda t: t.squeeze(-1))


@formula("addmv.default")
def matrix_vector_and_sum(
    m: Arithmetic, c: Residue, a: Residue, x: Residue, *, beta: float = 1, alpha: float = 1
) -> Residue:
    """Beta * c + alpha * (a @ x)."""
    return scaled(c, beta) + scaled(matrix_vector(m, a, x), alpha)


@formula("dot.default", "vdot.default")
def dot(_m: Arithmetic, x: Residue, y: Residue) -> Residue:
    """sum(x * y)."""
    return x.sum_of_products(y)


@formula("addr.default")
def outer_and_sum(_m: Arithmetic, c: Residue, x: Residue, y: Residue, *, beta: float = 1, alpha: float = 1) -> Residue:
    """Beta * c + alpha * (x outer y)."""
    outer = x.moved(lambda t: t.unsqueeze(1)) * y.moved(lambda t: t.unsqueeze(0))
    return scaled(c, beta) + scaled(outer, alpha)


def scaled(x: Residue, factor: float) -> Residue:
    """Factor * x; no pass over memory for a factor of one."""
    return x if factor == 1 else x * factor
