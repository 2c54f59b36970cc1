"""Choices: which integers, truth values and masks came of comparing residues, so that the bound can count them.

What is computed from the index that a topk gave depends on every element that topk compared. The keyed order makes the
choice independent of the values unless two different elements meet (docs/exact.md); `Degree.orders` counts what could.
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
    """What the integers, truth values and real constants among operands owe to comparisons of residues."""
    found = REAL
    for x in tensors_in(args):
        if not x.is_meta:
            tag = tags.get(x)
            if tag is not None and tag is not REAL and (tag.real or not x.is_floating_point()):
                found = replace(found, degree=found.degree.chosen_by(tag.degree))
    return found


def mark_choice(tags: TagStore, op: OpOverload, args: Any, result: Any) -> None:
    """Let an op's results owe to comparisons what its operands do."""
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
    """Let what is made of comparisons of residues remember it: no Python branch may be taken on it.

    Integers are free: an index, or how many elements were chosen, is what programs loop over (the experts hit).
    """
    if any((tag := tags.get(x)) is not None and tag.compared for x in tensors_in(args) if not x.is_meta):
        for x in tensors_in(result):
            if (x.dtype == torch.bool or x.is_floating_point()) and not x.is_meta:
                tags.set(x, replace(tags.get(x) or REAL, compared=True))


def mark_selection(tags: TagStore, op: OpOverload, args: Any, result: Any, operand: Tag) -> None:
    """Let the indices and truth values that a selection gave owe to the comparison of its operands."""
    given = [x for x in tensors_in(args) if x.is_floating_point()]
    for x in tensors_in(result):
        if not x.is_floating_point():
            degree = operand.degree.compared(compared_for_one(op, given, x))
            tags.set(x, replace(REAL, degree=degree, compared=x.dtype == torch.bool))
