"""Choices: which integers, truth values and masks come of comparing residues, so that the bound can count them.

What is computed from the indices of a topk depends on every element that topk compared. The keyed order makes the
choice independent of the values unless two different elements are equal by chance (docs/exact.md); `Degree.orders`
counts the elements compared.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from shardproof.exact.engine.tags import REAL
from shardproof.exact.engine.tensor_trees import tensors_in
from shardproof.exact.engine.variants import is_written
from shardproof.exact.rules.registry import compared_for_one

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from shardproof.exact.engine.tags import Tag, TagStore

# Ops each element of whose result looks at one index or truth value of each operand. Others may look at all of them.
_ONE_EACH: Final = frozenset(
    {
        *(
            "gather",
            "index",
            "index_select",
            "embedding",
            "where",
            "masked_fill",
            "take",
            "_to_copy",
            "clone",
            "detach",
        ),
        *("view", "_unsafe_view", "unsqueeze", "squeeze", "expand", "permute", "transpose", "t", "alias", "as_strided"),
        *("select", "slice", "split", "split_with_sizes", "unbind", "cat", "stack", "flip", "roll", "repeat"),
    }
)


def choice_among(tags: TagStore, args: Any) -> Tag:
    """The degree of the comparisons of residues that chose integers, truth values or constants among the operands."""
    found = REAL
    for x in tensors_in(args):
        if not x.is_meta:
            tag = tags.get(x)
            if tag is not None and tag is not REAL and (tag.real or not (x.is_floating_point() or x.is_complex())):
                found = replace(found, degree=found.degree.chosen_by(tag.degree))
    return found


def mark_choice(tags: TagStore, op: OpOverload, args: Any, result: Any) -> None:
    """Add the comparisons behind an op's operands to the degrees of its results."""
    choice = choice_among(tags, args)
    if choice is REAL:
        return
    operands = {x.untyped_storage()._cdata for x in tensors_in(args) if not x.is_meta}
    times = 1
    if torch.Tag.pointwise not in op.tags and op._schema.name.removeprefix("aten::") not in _ONE_EACH:
        times = max((x.numel() for x in tensors_in(args)), default=1)
    for x in tensors_in(result):
        if not x.is_meta:
            tag = tags.get(x) or REAL
            if not is_written(op) and x.untyped_storage()._cdata in operands:
                continue  # a view
            degree = tag.degree.chosen_by(choice.degree, times)
            tags.set(x, replace(tag, degree=degree))


def mark_compared(tags: TagStore, args: Any, result: Any) -> None:
    """Mark truth values and numbers made of comparisons of residues: a Python branch on them is refused.

    Integers are not marked: programs loop over indices and counts (the experts that were hit).
    """
    if any((tag := tags.get(x)) is not None and tag.compared for x in tensors_in(args) if not x.is_meta):
        for x in tensors_in(result):
            if (x.dtype == torch.bool or x.is_floating_point() or x.is_complex()) and not x.is_meta:
                tags.set(x, replace(tags.get(x) or REAL, compared=True))


def mark_selection(tags: TagStore, op: OpOverload, args: Any, result: Any, operand: Tag) -> None:
    """Add the comparison of a selection's operands to the degrees of the indices and truth values that it gave."""
    given = [x for x in tensors_in(args) if x.is_floating_point()]
    for x in tensors_in(result):
        if not x.is_floating_point():
            degree = operand.degree.compared(compared_for_one(op, given, x))
            tags.set(x, replace(REAL, degree=degree, compared=x.dtype == torch.bool))
