"""Formulas on large tensors, block by block: intermediate results stay in the cache."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._prims_common import compute_elementwise_output_strides

from shardproof.exact.algebra.blocks import blocks, is_large, row_blocks
from shardproof.exact.algebra.residue import Residue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shardproof.exact.algebra.residue import Arithmetic


def by_elements(
    m: Arithmetic,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    into: Tensor | None = None,
) -> Any:
    """A formula's result, where each element depends on the operands' elements at its own position alone.

    Args:
        m: the arithmetic.
        function: `(m, *args, **kwargs)` to a `Residue`, or to something else, which is then computed in one go.
        args: with `Residue` in place of floating tensors; tensors broadcast.
        kwargs: likewise.
        into: where a `Residue`'s elements go, of the result's shape; it may be an operand. Without it, new memory laid
            out as PyTorch lays out the result of a pointwise op.

    Returns:
        What `function` returns for the operands; if `into` is given and it is a `Residue`, its tensor is `into`.
    """
    operands = [x for x in (*args, *kwargs.values()) if isinstance(x, Residue | Tensor)]
    memory = [x.tensor if isinstance(x, Residue) else x for x in operands]
    # What they broadcast to has no more elements than this.
    most = prod(x.numel() for x in memory)
    if not memory or not is_large(most, device := _device_of(memory)):
        return _stored(function(m, *args, **kwargs), into)
    shape = torch.broadcast_shapes(*(x.shape for x in memory))
    if any(isinstance(x, Residue) and x.has_companion for x in operands) or not is_large(shape.numel(), device):
        return _stored(function(m, *args, **kwargs), into)
    target = into
    if target is None or target.shape != shape or not all(_may_overwrite(target, x) for x in memory):
        strides = compute_elementwise_output_strides(*(x.expand(shape) for x in memory))
        target = torch.empty_strided(shape, strides, dtype=torch.float64, device=device)
    for target_block, *parts in blocks(target, *memory):
        values = _residues_again(parts, operands, m)
        found = function(
            m,
            *(next(values) if isinstance(x, Residue | Tensor) else x for x in args),
            **{name: next(values) if isinstance(x, Residue | Tensor) else x for name, x in kwargs.items()},
        )
        if not isinstance(found, Residue) or found.has_companion:
            return _stored(function(m, *_apart(args, into), **kwargs), into)  # companions are of whole tensors
        target_block.copy_(found.tensor)
    return _stored(replace(found, tensor=target), into)  # each block has the degree and the tags of the whole


def by_rows(
    function: Callable[..., tuple[Residue, ...]], dim: int, operand: Residue, *others: Residue, results: int = 1
) -> tuple[Residue, ...]:
    """A formula's results, where each row along a dim depends on the operands' rows at its own position alone.

    Args:
        function: residues whose rows lie along their last dim, to `results` residues of the same shape.
        dim: along which the rows lie.
        operand: whose rows they are.
        others: more operands, of the same shape.
        results: how many there are.

    Returns:
        The results, contiguous.
    """
    operands = (operand, *others)
    shape, device = operand.shape, operand.tensor.device
    if not is_large(operand.numel(), device):
        found = function(*(x.moved(lambda t: t.movedim(dim, -1)) for x in operands))
        return tuple(x.moved(lambda t: t.movedim(-1, dim).contiguous()) for x in found)
    targets = [torch.empty(shape, dtype=torch.float64, device=device) for _ in range(results)]
    for parts in row_blocks(dim, *targets, *(x.tensor for x in operands)):
        found = function(*_residues_again(parts[results:], operands, operand.of))
        for target_block, value in zip(parts, found, strict=False):
            target_block.copy_(value.tensor)
    return tuple(replace(x, tensor=target) for x, target in zip(found, targets, strict=True))


def _residues_again(parts: Sequence[Tensor], operands: Sequence[Any], m: Arithmetic) -> Iterator[Any]:
    """The operands' blocks, as what the operands are. Formulas look at degrees: to tell constants."""
    for part, x in zip(parts, operands, strict=True):
        known = isinstance(x, Residue)
        yield Residue(part, x.degree, m, roots=x.roots, divisor=x.divisor) if known else part


def _apart(args: Sequence[Any], into: Tensor | None) -> list[Any]:
    """The operands, in memory of their own where the result overwrites it: a companion may be an operand."""
    return [replace(x, tensor=x.tensor.clone()) if into is not None and isinstance(x, Residue) else x for x in args]


def _device_of(memory: Sequence[Tensor]) -> torch.device:
    """Where an op is computed: a tensor without dims may lie in the CPU's memory beside tensors elsewhere."""
    return max(memory, key=Tensor.dim).device


def _may_overwrite(target: Tensor, operand: Tensor) -> bool:
    """Whether writing the target block by block leaves the operand's later blocks as they are."""
    if target.untyped_storage()._cdata != operand.untyped_storage()._cdata:
        return True
    return (
        target.data_ptr() == operand.data_ptr()
        and target.shape == operand.shape
        and target.stride() == operand.stride()
    )


def _stored(result: Any, into: Tensor | None) -> Any:
    if into is None or not isinstance(result, Residue):
        return result
    into.copy_(result.tensor)
    return replace(result, tensor=into)
