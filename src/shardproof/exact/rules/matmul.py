"""Matrix products: single, batched, added to something, and grouped as the experts of a mixture are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.exact.algebra.groups import multiply_groups
from shardproof.exact.algebra.residue import Residue
from shardproof.exact.rules.registry import formula, runs_on_reals

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from shardproof.exact.algebra.residue import Arithmetic


@formula("mm.default", "bmm.default")
def product(_m: Arithmetic, a: Residue, b: Residue) -> Residue:
    """(..., M, K) @ (..., K, N) -> (..., M, N)."""
    return a @ b


@formula("addmm.default", "baddbmm.default")
def product_and_sum(m: Arithmetic, c: Residue, a: Residue, b: Residue, *, beta: float = 1, alpha: float = 1) -> Residue:
    """Beta * c + alpha * (a @ b)."""
    if alpha == 1:
        return a.matmul(b, plus=c.scaled(beta))
    return c.scaled(beta).plus(a @ b, times=m.constant(alpha))


@formula("addbmm.default")
def summed_batch_product(
    m: Arithmetic, c: Residue, a: Residue, b: Residue, *, beta: float = 1, alpha: float = 1
) -> Residue:
    """Beta * c + alpha * sum over the batch of (a @ b)."""
    return c.scaled(beta).plus((a @ b).sum(0), times=m.constant(alpha))


@formula("mv.default")
def matrix_vector(_m: Arithmetic, a: Residue, x: Residue) -> Residue:
    """(M, K) @ (K,) -> (M,)."""
    return (a @ x.moved(lambda t: t.unsqueeze(-1))).moved(lambda t: t.squeeze(-1))


@formula("addmv.default")
def matrix_vector_and_sum(
    m: Arithmetic, c: Residue, a: Residue, x: Residue, *, beta: float = 1, alpha: float = 1
) -> Residue:
    """Beta * c + alpha * (a @ x)."""
    return c.scaled(beta) + matrix_vector(m, a, x).scaled(alpha)


@formula("dot.default", "vdot.default")
def dot(_m: Arithmetic, x: Residue, y: Residue) -> Residue:
    """sum(x * y)."""
    return x.sum_of_products(y)


@formula("addr.default")
def outer_and_sum(_m: Arithmetic, c: Residue, x: Residue, y: Residue, *, beta: float = 1, alpha: float = 1) -> Residue:
    """Beta * c + alpha * (x outer y)."""
    outer = x.moved(lambda t: t.unsqueeze(1)) * y.moved(lambda t: t.unsqueeze(0))
    return c.scaled(beta) + outer.scaled(alpha)


# Grouped --------------------------------------------------------------------------------------------------------------

# How programs count the rows of each group, from integers.
runs_on_reals("histc.default")


@formula("_grouped_mm.default")
def grouped_product(
    m: Arithmetic,
    a: Residue,
    b: Residue,
    offsets: Tensor | None = None,
    bias: Residue | None = None,
    out_dtype: torch.dtype | None = None,
) -> Residue:
    """The product of each group, whose end in the dim that holds the groups `offsets` gives; `torch._grouped_mm`.

    (S, K), (G, K, N) -> (S, N), rows in groups. (M, K), (G, K, S) with a of three dims and b of two: columns in groups.
    (M, S), (S, N) -> (G, M, N), the inner dim in groups. (G, M, K), (G, K, N) -> (G, M, N). Rows and columns that no
    group has are NaN, void elements: PyTorch leaves them unwritten.
    """
    del out_dtype
    if a.ndim == b.ndim == 3:
        product = a @ b
        return product if bias is None else product + bias
    if offsets is None or bias is not None:
        raise NotImplementedError("a grouped product without offsets, or with a bias")
    degree = (a.degree * b.degree).sum_of(a.shape[-1])
    return Residue(multiply_groups(m.field.matmul, a.tensor, b.tensor, offsets.tolist()), degree, m)
