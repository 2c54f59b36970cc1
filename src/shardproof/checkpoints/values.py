"""`shardproof.compare`: two tensors, two state dicts, two checkpoints on disk, or any of the last two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from shardproof.checkpoints.checkpoint import Checkpoint, checkpoint_of
from shardproof.checkpoints.comparing import Settings, compare_checkpoints
from shardproof.checkpoints.diagnosis import diagnose
from shardproof.checkpoints.full import full_of
from shardproof.checkpoints.layout_file import Layout, parse_layout, read_layout
from shardproof.checkpoints.opening import open_checkpoint
from shardproof.checkpoints.pieces import OpenFiles, Piece, TensorPiece, UnreadablePiece
from shardproof.checkpoints.renaming import parse_renaming
from shardproof.checkpoints.torch_files import list_tensors
from shardproof.checkpoints.words import describe_damage
from shardproof.comparison import Comparison, check_readable
from shardproof.comparison import compare as compare_tensors
from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shardproof.checkpoints.layout_file import SideLayout
    from shardproof.checkpoints.rows import CheckpointComparison

Checkpointed = Mapping[str, Any] | str | Path


@overload
def compare(
    actual: torch.Tensor,
    expected: torch.Tensor,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    name: str = "",
    kernel: Literal["eager", "compiled"] = "eager",
    explain: bool = True,
) -> Comparison: ...


@overload
def compare(
    actual: Checkpointed,
    expected: Checkpointed,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    kernel: Literal["eager", "compiled"] = "eager",
    explain: bool = True,
    layout: Mapping[str, Any] | str | Path | None = None,
    rename: Iterable[str] = (),
    cast: bool = False,
) -> CheckpointComparison: ...


def compare(
    actual: torch.Tensor | Checkpointed,
    expected: torch.Tensor | Checkpointed,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    name: str = "",
    kernel: Literal["eager", "compiled"] = "eager",
    explain: bool = True,
    layout: Mapping[str, Any] | str | Path | None = None,
    rename: Iterable[str] = (),
    cast: bool = False,
) -> Comparison | CheckpointComparison:
    """How `actual` differs from `expected`, and what happened to what differs; `print` it.

    The order of arguments and the default tolerances are torch.testing's. A difference in shape or dtype is a result,
    not an error. Autograd does not record. On the CPU, `kernel="compiled"` builds a C++ kernel (half a second, once a
    process), which is faster for float32, float64 and bfloat16. For other tensors, and without a C++ compiler (then
    with a warning), the eager kernel is used.

    Args:
        actual: the candidate's: a tensor, or a checkpoint: a state dict, or a path as docs/compare.md has it.
        expected: the reference's, of the same kind; a state dict may be compared with a path.
        rtol: relative tolerance.
        atol: absolute tolerance.
        equal_nan: NaN at the same place in both is equal.
        name: of two tensors, for printing.
        kernel: "eager" or "compiled".
        explain: look for what happened to tensors that differ; it reads these a few times.
        layout: of checkpoints, how ranks hold tensors where sizes do not show it: a file, or what would stand in it.
        rename: of checkpoints, patterns OLD=NEW for names of `actual`.
        cast: of checkpoints, compare different dtypes in the less precise of the two.

    Returns:
        A `Comparison` of two tensors, a `CheckpointComparison` of two checkpoints.

    Raises:
        CannotRunError: a tensor has no values to read in order (meta, sparse, DTensor), its dtype is not supported
            (quantized, packed, complex32), a tolerance is negative or NaN, `kernel` is unknown; or a checkpoint is not
            there or damaged, or `layout` or `rename` does not fit.
    """
    if isinstance(actual, Mapping | str | Path) and isinstance(expected, Mapping | str | Path):
        settings = Settings(
            rtol=rtol,
            atol=atol,
            equal_nan=equal_nan,
            kernel=kernel,
            layout=_take_layout(layout),
            renamings=tuple(map(parse_renaming, rename)),
            cast=cast,
            explain=explain,
        )
        with OpenFiles() as files:
            a = _open(actual, settings.layout.actual, files)
            e = _open(expected, settings.layout.expected, files)
            return compare_checkpoints(a, e, settings)
    if layout is not None or tuple(rename) or cast:
        raise CannotRunError("layout, rename and cast are for checkpoints; give two state dicts or paths")
    found = compare_tensors(
        actual,  # type: ignore[arg-type] # anything else is refused in words
        expected,  # type: ignore[arg-type]
        rtol=rtol,
        atol=atol,
        equal_nan=equal_nan,
        name=name,
        kernel=kernel,
    )
    assert isinstance(actual, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    if not explain or found.outcome != "diverged" or actual.dtype != expected.dtype:
        return found
    return replace(found, told=_tell(found, actual.detach(), expected.detach()))


def _tell(found: Comparison, actual: torch.Tensor, expected: torch.Tensor) -> str:
    a, e = (full_of(TensorPiece(tensor=side.as_subclass(torch.Tensor))) for side in (actual, expected))
    sentence = describe_damage(diagnose(a, e, expected.dtype))
    if found.worst is None:
        return sentence
    worst = found.worst
    return f"{sentence}; largest at {list(worst.index)}: actual {worst.actual}, expected {worst.expected}"


def _take_layout(layout: Mapping[str, Any] | str | Path | None) -> Layout:
    if layout is None:
        return Layout()
    return parse_layout(dict(layout)) if isinstance(layout, Mapping) else read_layout(Path(layout))


def _open(given: Checkpointed, layout: SideLayout, files: OpenFiles) -> Checkpoint:
    if not isinstance(given, Mapping):
        return open_checkpoint(Path(given), files, layout.layers)
    tensors: dict[str, Piece] = {}
    for name, tensor in list_tensors(dict(given), "the state dict"):
        try:
            tensors[name] = TensorPiece(tensor=check_readable(tensor, name))
        except CannotRunError as error:
            tensors[name] = UnreadablePiece(shape=tuple(tensor.shape), reason=str(error))
    return checkpoint_of(tensors)
