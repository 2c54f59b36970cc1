"""The batch: each side's own copy, the tensors that are drawn again in each trial, and a digest."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from shardproof.exact import ExactArithmetic
    from shardproof.proving.step import Step


def copy_batch(batch: Any, dtype: torch.dtype | None = torch.float64) -> Any:
    """A copy of the batch, so that no run changes another's; floating tensors in `dtype`, or for None as they are."""
    return tree_map(
        lambda x: x.detach().to(dtype if x.is_floating_point() else None, copy=True) if isinstance(x, Tensor) else x,
        copy.deepcopy(batch),
    )


def draw_batch(exact: ExactArithmetic, batch: Any) -> Any:
    """The batch with a residue drawn for each number, equal for equal numbers: the theorem is about drawn inputs.

    Integers (token ids), numbers without a dim, counts and masks stay as they are.
    """
    with exact.paused():
        drawn = {id(x) for x in tree_leaves(batch) if _is_drawn(x)}
    return tree_map(lambda x: exact.redraw(x, "batch") if id(x) in drawn else x, batch)


def digest_batch(step: Step) -> str:
    """SHA-256 of the tensors in the batch: their shapes, dtypes and bytes."""
    found = hashlib.sha256()
    for x in tree_leaves(step.batch):
        if isinstance(x, Tensor):
            found.update(f"{tuple(x.shape)} {x.dtype}".encode())
            found.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def require_same_batch(step: Step, digest: str) -> None:
    """Compare the batch of a step that a rank's process has loaded.

    Raises:
        CannotRunError: it has another digest.
    """
    if digest_batch(step) != digest:
        raise CannotRunError(
            "the batch is another one when the step is loaded in a rank's process; seed what draws it "
            "(torch.Generator().manual_seed(0), say)"
        )


def describe_probes(batch: Any) -> str:
    """What a step is probed with, in words."""
    tensors = [x for x in tree_leaves(batch) if isinstance(x, Tensor)]
    drawn = sum(map(_is_drawn, tensors))
    kept = Counter(str(x.dtype).removeprefix("torch.") for x in tensors if not _is_drawn(x))
    told = ["parameters drawn in each trial"]
    if drawn:
        told.append(f"{drawn} tensor{'s' * (drawn != 1)} of the batch too")
    told += [f"{count} of {dtype} as given" for dtype, count in sorted(kept.items())]
    return ", ".join(told)


def _is_drawn(x: object) -> bool:
    """A floating tensor with a dim that holds more than whole numbers and the symbols of masks: no counts, no mask."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.ndim:
        return False
    least = torch.finfo(x.dtype).min
    return not bool(((x == x.round()) | (x <= least)).all())
