"""Causes that show beside other tensors of the run, where what the ranks hold of a tensor alone does not tell.

`RELATIONS` is the table: each is given the run, and the tensor that is wrong, and is tried in order. To add one: a file
of its own with its function, and its line here; its kind in `proving/cause.py`, its words in `report/words.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.proving.judging.fused import explain_fused
from shardproof.proving.judging.linear import explain_linear
from shardproof.proving.judging.losses import explain_loss
from shardproof.proving.judging.norms import explain_clipping
from shardproof.proving.judging.steps_taken import explain_step
from shardproof.proving.judging.tables import explain_tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.proving.cause import Cause
    from shardproof.proving.judging.alignment import Aligned, Alignment
    from shardproof.proving.judging.closeness import Closeness
    from shardproof.proving.records import Key

    Relation = Callable[[Alignment, Key, Aligned, Closeness], Cause | None]


def explain_beside(alignment: Alignment, key: Key, aligned: Aligned, closeness: Closeness) -> Cause | None:
    """The first relation to other tensors that explains all of a difference; None if no known one does.

    Args:
        alignment: of the run.
        key: of a tensor that some rank holds wrongly.
        aligned: what the ranks hold of it.
        closeness: how its values are compared.
    """
    found = (relation(alignment, key, aligned, closeness) for relation in RELATIONS)
    return next((cause for cause in found if cause is not None), None)


RELATIONS: tuple[Relation, ...] = (
    explain_clipping,
    explain_step,
    explain_loss,
    explain_fused,
    explain_linear,
    explain_tables,
)
