"""Two checkpoints, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from shardproof.checkpoints.full import FullPair, bits_equal, full_of_placement
from shardproof.checkpoints.inference import infer
from shardproof.checkpoints.opening import open_checkpoint
from shardproof.checkpoints.pieces import OpenFiles
from shardproof.checkpoints.rows import CheckpointComparison, Row
from shardproof.comparison import Comparison, compare_blocks
from shardproof.errors import CannotRunError
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shardproof.checkpoints.checkpoint import Checkpoint
    from shardproof.checkpoints.full import FullTensor
    from shardproof.checkpoints.layout import Held
    from shardproof.checkpoints.rows import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options that reach each comparison; see `shardproof.compare`."""

    rtol: float | None = None
    atol: float | None = None
    equal_nan: bool = False
    kernel: Literal["eager", "compiled"] = "eager"


def compare_paths(
    actual: Path,
    expected: Path,
    settings: Settings | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> CheckpointComparison:
    """Compare two checkpoints on disk.

    Args:
        actual: the candidate's: a file, a folder with an index, or a folder with the files of ranks.
        expected: the reference's; its ranks may be others, and as many as they like.
        settings: tolerances.
        progress: called with the number of tensors that are done, and of all.

    Raises:
        CannotRunError: a checkpoint is not there or damaged.
    """
    with OpenFiles() as files:
        a, e = (open_checkpoint(path, files) for path in (actual, expected))
        rows = compare_checkpoints(a, e, settings or Settings(), progress)
    return CheckpointComparison(rows=tuple(rows), actual=a.told, expected=e.told)


def compare_checkpoints(
    actual: Checkpoint,
    expected: Checkpoint,
    settings: Settings,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Row]:
    """Compare every tensor of both: in the order of the expected checkpoint, then those that only `actual` has."""
    names = [*expected.tensors, *(name for name in actual.tensors if name not in expected.tensors)]
    rows = []
    for done, name in enumerate(names):
        progress(done, len(names))
        rows.append(_compare_tensor(name, actual.tensors.get(name), expected.tensors.get(name), settings))
    progress(len(names), len(names))
    return rows


def _compare_tensor(name: str, actual: Held | None, expected: Held | None, settings: Settings) -> Row:
    if actual is None:
        return Row(name=name, status="failed", comparison=None, reason="missing: only expected has it")
    if expected is None:
        return Row(name=name, status="failed", comparison=None, reason="extra: only actual has it")
    try:
        a, e = infer(actual, expected)
        comparison = _compare(a, e, name, settings)
        trouble = _check_copies(a, "actual") or _check_copies(e, "expected") or _check_complete(actual, expected)
    except CannotRunError as error:
        return Row(name=name, status="skipped", comparison=None, reason=f"not compared: {error}", unreadable=True)
    outcome = comparison.outcome
    status: Status = "skipped" if outcome == "nothing" else "failed" if outcome == "diverged" or trouble else "passed"
    return Row(name=name, status=status, comparison=comparison, reason=trouble, layouts=(a.how, e.how))


def _compare(actual: FullTensor, expected: FullTensor, name: str, settings: Settings) -> Comparison:
    shown = printable(name)
    reasons = []
    if actual.shape != expected.shape:
        reasons.append(f"shape {list(actual.shape)} where {list(expected.shape)} is expected")
    if actual.dtype != expected.dtype:
        given, wanted = (str(side.dtype).removeprefix("torch.") for side in (actual, expected))
        reasons.append(f"dtype {given} where {wanted} is expected")
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
    return compare_blocks(
        FullPair(actual=actual, expected=expected, dtype=expected.dtype),
        expected.shape,
        rtol=settings.rtol,
        atol=settings.atol,
        equal_nan=settings.equal_nan,
        name=shown,
        kernel=settings.kernel,
    )


def _check_copies(full: FullTensor, side: str) -> str | None:
    """What is wrong with the copies of a tensor on several ranks, or None."""
    for copy in full.copies:
        if not bits_equal(full_of_placement(copy), full.box(copy)):
            return f"replicas differ in {side}: {copy.holder} holds other values than {full.placements[0].holder}"
    return None


def _check_complete(actual: Held, expected: Held) -> str | None:
    for held, side in ((actual, "actual"), (expected, "expected")):
        if held.lost:
            lost = ", ".join(map(held.name_rank, held.lost))
            return f"a shard is missing: {lost} of {side} has none, the others have"
    return None
