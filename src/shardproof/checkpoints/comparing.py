"""Two checkpoints, tensor by tensor: compared first; then, of those that are not equal, what happened."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch

from shardproof.checkpoints.damage import Damage, Kind
from shardproof.checkpoints.diagnosis import diagnose
from shardproof.checkpoints.full import FullPair, bits_equal, full_of_placement, tensor_of
from shardproof.checkpoints.inference import infer
from shardproof.checkpoints.layout_file import Layout
from shardproof.checkpoints.names import find_other_names
from shardproof.checkpoints.opening import open_checkpoint
from shardproof.checkpoints.pieces import OpenFiles
from shardproof.checkpoints.renaming import Renaming, rename
from shardproof.checkpoints.rows import CheckpointComparison, Row
from shardproof.comparison import Comparison, compare_blocks, open_pair
from shardproof.comparison.formats import FLOAT8, FLOAT_FORMATS, INTEGERS
from shardproof.errors import CannotRunError
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shardproof.checkpoints.checkpoint import Checkpoint
    from shardproof.checkpoints.full import FullTensor
    from shardproof.checkpoints.layout import Held
    from shardproof.checkpoints.rows import Status
    from shardproof.comparison import Blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to compare.

    Attributes:
        rtol, atol, equal_nan, kernel: as for `shardproof.compare` of two tensors.
        layout: how ranks hold tensors, where sizes do not show it.
        renamings: of names of `actual`.
        cast: tensors of different dtypes are compared in the less precise of the two.
        explain: look for what happened to tensors that are not equal.
    """

    rtol: float | None = None
    atol: float | None = None
    equal_nan: bool = False
    kernel: Literal["eager", "compiled"] = "eager"
    layout: Layout = field(default_factory=Layout)
    renamings: tuple[Renaming, ...] = ()
    cast: bool = False
    explain: bool = True


def compare_paths(
    actual: Path,
    expected: Path,
    settings: Settings | None = None,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> CheckpointComparison:
    """Compare two checkpoints on disk.

    Args:
        actual: the candidate's: a file or a folder; see docs/compare.md.
        expected: the reference's; its ranks may be others, and as many as they like.
        settings: how to compare.
        progress: called with what is being done ("compared", "explained"), the number of tensors done, and of all.

    Raises:
        CannotRunError: a checkpoint is not there or damaged, or the layout or a renaming does not fit.
    """
    settings = settings or Settings()
    with OpenFiles() as files:
        a = open_checkpoint(actual, files, settings.layout.actual.layers)
        e = open_checkpoint(expected, files, settings.layout.expected.layers)
        return compare_checkpoints(a, e, settings, progress)


def compare_checkpoints(
    actual: Checkpoint,
    expected: Checkpoint,
    settings: Settings,
    progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None,
) -> CheckpointComparison:
    """Compare every tensor of both: in the order of the expected checkpoint, then those that only `actual` has."""
    renamed = rename(actual.tensors, settings.renamings)
    settings.layout.actual.check_used(renamed)
    settings.layout.expected.check_used(expected.tensors)
    names = [*expected.tensors, *(name for name in renamed if name not in expected.tensors)]
    found = []
    for done, name in enumerate(names):
        progress("compared", done, len(names))
        found.append(_compare_tensor(name, renamed.get(name), expected.tensors.get(name), settings))
    progress("compared", len(names), len(names))
    rows = tuple(_explain(found, settings, progress)) if settings.explain else tuple(one.row for one in found)
    return CheckpointComparison(rows=rows, actual=actual.told, expected=expected.told)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """A row, and the full tensors of both sides; None where a side has none that can be read."""

    row: Row
    actual: FullTensor | None = None
    expected: FullTensor | None = None


def _compare_tensor(name: str, actual: Held | None, expected: Held | None, settings: Settings) -> _Compared:
    layout = settings.layout.actual.find(name), settings.layout.expected.find(name)
    try:
        if actual is None or expected is None:
            return _of_one_side(name, actual, expected, settings)
        a, e = infer(actual, expected, layout)
        comparison = _compare(a, e, name, settings)
        damage = _check_held(actual, a, "actual") or _check_held(expected, e, "expected")
    except CannotRunError as error:
        reason = f"not compared: {error}"
        return _Compared(row=Row(name=name, status="skipped", comparison=None, reason=reason, unreadable=True))
    if damage is None and a.dtype != e.dtype and comparison.mismatch is not None:
        damage = Damage(kind=Kind.DTYPE, text=f"{_name(a.dtype)} where {_name(e.dtype)} is expected")
    outcome = comparison.outcome
    status: Status = "skipped" if outcome == "nothing" else "failed" if outcome == "diverged" or damage else "passed"
    row = Row(name=name, status=status, comparison=comparison, damage=damage, layouts=(a.how, e.how))
    return _Compared(row=row, actual=a, expected=e)


def _of_one_side(name: str, actual: Held | None, expected: Held | None, settings: Settings) -> _Compared:
    """A tensor that one side lacks. How its ranks hold it is known where one has it, or the layout says so."""
    damage = Damage(kind=Kind.ABSENT if actual is None else Kind.EXTRA)
    row = Row(name=name, status="failed", comparison=None, damage=damage)
    held = actual or expected
    assert held is not None
    side = settings.layout.expected if actual is None else settings.layout.actual
    full, _ = infer(held, held, (side.find(name), side.find(name)))
    return _Compared(row=row, actual=full if actual is not None else None, expected=full if actual is None else None)


def _compare(actual: FullTensor, expected: FullTensor, name: str, settings: Settings) -> Comparison:
    shown = printable(name)
    reasons = []
    if actual.shape != expected.shape:
        reasons.append(f"shape {list(actual.shape)} where {list(expected.shape)} is expected")
    dtype = common_dtype(actual.dtype, expected.dtype) if settings.cast else None
    if actual.dtype != expected.dtype and dtype is None:
        reasons.append(f"dtype {_name(actual.dtype)} where {_name(expected.dtype)} is expected")
    if reasons:
        return Comparison(
            name=shown,
            shape=expected.shape,
            dtype=expected.dtype,
            count=0,
            exact=False,
            approximate=False,
            rtol=settings.rtol or 0.0,
            atol=settings.atol or 0.0,
            maxdiff=float("nan"),
            mismatch=", ".join(reasons),
        )
    a, e = tensor_of(actual), tensor_of(expected)
    if a is not None and e is not None and a.dtype == e.dtype:
        blocks: Blocks = open_pair(a, e)
    else:
        blocks = FullPair(actual=actual, expected=expected, dtype=dtype or expected.dtype)
    return compare_blocks(
        blocks,
        expected.shape,
        rtol=settings.rtol,
        atol=settings.atol,
        equal_nan=settings.equal_nan,
        name=shown,
        kernel=settings.kernel,
    )


def common_dtype(actual: torch.dtype, expected: torch.dtype) -> torch.dtype | None:
    """In which values of two dtypes can be compared: of floats the less precise, of integers int64; None: in none."""
    if actual == expected:
        return actual
    floats = FLOAT_FORMATS.keys() | FLOAT8
    if actual in floats and expected in floats:
        return max(actual, expected, key=lambda dtype: torch.finfo(dtype).eps)
    if {actual, expected} <= INTEGERS - {torch.uint64, torch.bool}:
        return torch.int64
    return None


def _check_held(held: Held, full: FullTensor, side: str) -> Damage | None:
    """What is wrong within one side, or None: a rank has nothing, or others than another with the same part."""
    lost = [held.name_rank(rank) for rank in held.lost] or list(full.missing)
    if lost:
        return Damage(kind=Kind.SHARD_ABSENT, other=", ".join(lost), side=side)
    for copy in full.copies:
        if not bits_equal(full_of_placement(copy), full.box(copy)):
            return Damage(kind=Kind.REPLICAS_DIFFER, other=copy.holder, side=side)
    return None


def _explain(found: list[_Compared], settings: Settings, progress: Callable[[str, int, int], None]) -> list[Row]:
    """The rows, with what happened to those that failed."""
    wrong = [one for one in found if one.row.status == "failed" and _is_open(one.row)]
    if not wrong:
        return [one.row for one in found]
    named = find_other_names(
        [one.row.name for one in wrong],
        {one.row.name: one.actual for one in found if one.actual is not None},
        {one.row.name: one.expected for one in found if one.expected is not None},
        [one.row.name for one in found if one.row.status == "passed"],
    )
    told: dict[str, Damage] = {}
    for done, one in enumerate(wrong):
        progress("explained", done, len(wrong))
        damage = named.get(one.row.name)
        if damage is None and one.actual is not None and one.expected is not None:
            dtype = one.expected.dtype
            if settings.cast:
                dtype = common_dtype(one.actual.dtype, dtype) or dtype
            damage = diagnose(one.actual, one.expected, dtype)
        if damage is not None:
            told[one.row.name] = damage
    progress("explained", len(wrong), len(wrong))
    return [replace(one.row, damage=told.get(one.row.name, one.row.damage)) for one in found]


def _is_open(row: Row) -> bool:
    """Whether nothing is known yet of what happened, but that a side lacks the tensor."""
    return row.damage is None or row.damage.kind in (Kind.ABSENT, Kind.EXTRA)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
