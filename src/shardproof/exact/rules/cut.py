"""Cuts: where a computation is taken apart, so that each segment has a bound of its own.

A cut records the residues that reach it, for comparison with the other program's, and adds to each element a random
residue, its pad, which depends on the element's number in the full tensor alone. Whatever the elements were, what
follows starts from independent uniform variables (docs/exact.md, theorem 3), so a bug shows at its own segment's cut
and nowhere before; a chance zero or a chance equality before the cut is none after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from shardproof.exact.algebra.cut import Cut
from shardproof.exact.algebra.degree import VARIABLE
from shardproof.exact.algebra.pads import element_pads
from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from shardproof.exact.algebra.field import Field
    from shardproof.exact.algebra.residue import Arithmetic, Residue

torch.library.define("shardproof::cut", "(Tensor x, Tensor numbers, str name) -> Tensor")
torch.library.impl("shardproof::cut", "CompositeExplicitAutograd", lambda x, _numbers, _name: x.clone())
torch.library.define("shardproof::fill_void", "(Tensor x, Tensor numbers, str name) -> Tensor")
torch.library.impl("shardproof::fill_void", "CompositeExplicitAutograd", lambda x, _numbers, _name: x.clone())
FILL_VOID: Final = torch.ops.shardproof.fill_void.default
torch.library.define("shardproof::redraw", "(Tensor x, str name) -> Tensor")
torch.library.impl("shardproof::redraw", "CompositeExplicitAutograd", lambda x, _name: x.clone())


@formula("shardproof::cut.default", symbols=True)
def add_pads(m: Arithmetic, x: Residue, numbers: Tensor, name: str, *, symbols: bool) -> Residue:
    """Record x, and add each element's pad; the symbols of masks stay as they are."""
    pads = element_pads(m.field, m.oracles.key, f"cut {name}", numbers)
    if m.records_cuts:
        residues = (number_symbols(x.tensor, m.field) if symbols else x.tensor).to(torch.int64, copy=True)
        m.cuts.append(Cut(name=name, residues=residues, degree=x.degree, void=m.operands_void))
    held = x.tensor.abs() > m.field.half
    fresh = m.field.add(x.tensor.masked_fill(held, 0.0) if symbols else x.tensor, pads)
    return m.residue(torch.where(held, x.tensor, fresh) if symbols else fresh, VARIABLE)


@formula("shardproof::fill_void.default", symbols=True)
def fill_void(m: Arithmetic, x: Residue, numbers: Tensor, name: str, *, symbols: bool) -> Residue:
    """Pads in the places of void elements, which are void no longer (`VoidElements` knows it)."""
    del symbols  # they stay where they are
    if m.operands_void is None:
        return x
    pads = element_pads(m.field, m.oracles.key, f"void {name}", numbers)
    return m.residue(torch.where(m.operands_void, pads, x.tensor), x.degree)


@formula("shardproof::redraw.default", symbols=True)
def redraw(m: Arithmetic, x: Residue, name: str, *, symbols: bool) -> Residue:
    """A random function of each element, 0 for 0: for inputs, of which equal numbers are to stay equal."""
    held = x.tensor.abs() > m.field.half
    fresh = m.oracles.look_up(m.oracles.function(name), x.tensor.masked_fill(held, 0.0) if symbols else x.tensor)
    return m.residue(torch.where(held, x.tensor, fresh) if symbols else fresh, VARIABLE)


def number_symbols(residues: Tensor, field: Field) -> Tensor:
    """-inf and finfo.min as one and two beyond the representatives."""
    beyond = torch.where(residues == float("-inf"), 1.0, 2.0) + field.half
    return torch.where(residues < -field.half, beyond, residues)


class CutBothWays(torch.autograd.Function):
    """Cut forward under a name, and the gradient backward under '<name> gradient'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, numbers: Tensor, name: str, enlarged: int = 1) -> Any:
        """Fresh residues, shaped like x."""
        ctx.numbers, ctx.name, ctx.enlarged = numbers, name, enlarged
        return _padded(x, numbers, name)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Fresh residues instead of the gradient, shaped like it."""
        name, times = f"{ctx.name} gradient", ctx.enlarged
        if times == 1:
            return _padded(gradients[0], ctx.numbers, name), None, None, None
        return _padded(gradients[0] * times, ctx.numbers, name) / times, None, None, None


def _padded(x: Any, numbers: Tensor, name: str) -> Any:
    placements = getattr(x, "placements", None)  # of a DTensor
    if placements is None:
        return torch.ops.shardproof.cut(x, numbers, name)
    if any(placement.is_partial() for placement in placements):
        msg = f"the cut {name!r} is made through a partial sum, {placements}; reduce it first, or cut elsewhere"
        raise ValueError(msg)
    local = torch.ops.shardproof.cut(x.to_local(), numbers, name)
    return type(x).from_local(local, x.device_mesh, placements, run_check=False, shape=x.shape, stride=x.stride())


def number_elements(x: Any) -> Tensor:
    """Each element's number in the full tensor, int64, in the shape of this rank's own part of it.

    A plain tensor is taken for a full one; a DTensor says by its placements which part a rank has.
    """
    numbers = torch.arange(x.numel(), device=x.device).view(x.shape)
    placements = getattr(x, "placements", None)
    if placements is None:
        return numbers
    from torch.distributed.tensor import Replicate, distribute_tensor

    kept = [Replicate() if placement.is_partial() else placement for placement in placements]
    return distribute_tensor(numbers, x.device_mesh, kept, src_data_rank=None).to_local()
