"""Cuts: where a computation is taken apart, so that each segment has a bound of its own.

A cut records the residues that reach it, for comparison with the other program's, and hands on fresh ones: a random
function of the residue, the same wherever and however the tensor is sharded. What follows starts from drawn variables
again (docs/exact.md, theorem 3), so a bug shows at its own segment's cut and nowhere before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shardproof.exact.algebra.degree import VARIABLE
from shardproof.exact.algebra.residue import Cut
from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from shardproof.exact.algebra.field import Field
    from shardproof.exact.algebra.residue import Arithmetic, Residue

torch.library.define("shardproof::cut", "(Tensor x, str name) -> Tensor")
torch.library.impl("shardproof::cut", "CompositeExplicitAutograd", lambda x, _name: x.clone())


@formula("shardproof::cut.default", symbols=True)
def replace_by_fresh(m: Arithmetic, x: Residue, name: str, *, symbols: bool) -> Residue:
    """Record x; a random function of it, 0 for 0: masked and dropped elements stay so."""
    held = x.tensor.abs() > m.field.half
    residues = x.tensor.masked_fill(held, 0.0) if symbols else x.tensor
    fresh = m.oracles.look_up(m.oracles.function(f"cut {name}"), residues)
    if symbols:
        residues = number_symbols(x.tensor, m.field)
        fresh = torch.where(held, x.tensor, fresh)
    m.cuts.append(Cut(name=name, residues=residues.to(torch.int64, copy=True), degree=x.degree, void=m.operands_void))
    return m.residue(fresh, VARIABLE)


def number_symbols(residues: Tensor, field: Field) -> Tensor:
    """-inf and finfo.min as one and two beyond the representatives."""
    beyond = torch.where(residues == float("-inf"), 1.0, 2.0) + field.half
    return torch.where(residues < -field.half, beyond, residues)


class CutBothWays(torch.autograd.Function):
    """Cut forward under a name, and the gradient backward under '<name> gradient'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Any:
        """Fresh residues, shaped like x."""
        ctx.name = name
        return _replaced(x, name)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Fresh residues in the gradient's place, shaped like it."""
        return _replaced(gradients[0], f"{ctx.name} gradient"), None


def _replaced(x: Any, name: str) -> Any:
    placements = getattr(x, "placements", None)  # of a DTensor
    if placements is None:
        return torch.ops.shardproof.cut(x, name)
    if any(placement.is_partial() for placement in placements):
        msg = f"the cut {name!r} is made through a partial sum, {placements}; reduce it first, or cut elsewhere"
        raise ValueError(msg)
    local = torch.ops.shardproof.cut(x.to_local(), name)
    return type(x).from_local(local, x.device_mesh, placements, run_check=False, shape=x.shape, stride=x.stride())
