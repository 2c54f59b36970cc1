"""A path -> a checkpoint: one file, a folder with an index, of torch.distributed.checkpoint, or of ranks' files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.checkpoints.checkpoint import Checkpoint, Rank, checkpoint_of
from shardproof.checkpoints.distributed import METADATA, read_distributed
from shardproof.checkpoints.ranks import check_grid, find_coordinates, group_ranks, list_members
from shardproof.checkpoints.safetensors_files import read_indexed, read_safetensors
from shardproof.checkpoints.stages import collect
from shardproof.checkpoints.torch_files import ZIP, read_torch
from shardproof.errors import CannotRunError
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from shardproof.checkpoints.pieces import OpenFiles, Piece

_ITERATION = "iter_"


def open_checkpoint(path: Path, files: OpenFiles, layers: Sequence[Sequence[int]] | None = None) -> Checkpoint:
    """The checkpoint at a path; only names, shapes and places in files are read.

    Args:
        path: of a file or a folder.
        files: through which its tensors will be read.
        layers: of each pipeline stage, the numbers of its layers; see `stages.collect`.

    Raises:
        CannotRunError: there is no checkpoint, or a file of it is damaged; a file stands for two tensors of one name.
    """
    try:
        is_folder = path.is_dir()
    except ValueError:  # a NUL in the path
        is_folder = False
    if not is_folder or _find_index(path) is not None or (path / METADATA).exists():
        return checkpoint_of(_read_one(path, files))
    members = list_members(path)
    ranks = [(member, find_coordinates(member.stem)) for member in members["files"]]
    ranks += [(member, find_coordinates(member.name)) for member in members["folders"]]
    if any(coordinates for _, coordinates in ranks):
        return _open_ranks(path, ranks, files, layers)
    if members["files"]:
        return checkpoint_of(_read_one(path, files))
    iterations = [member for member in members["others"] if member.name.startswith(_ITERATION)]
    if len(iterations) == 1:
        return open_checkpoint(iterations[0], files, layers)
    if iterations:
        raise CannotRunError(f"{printable(path)} has {len(iterations)} iterations; give one of their folders")
    raise CannotRunError(
        f"{printable(path)} is a directory without tensors: needed are an index (*.index.json), files of ranks "
        "(mp_rank_00, rank_0.safetensors, model-tp0-pp1.pt) or one file; give a folder with these"
    )


def _open_ranks(
    folder: Path,
    members: list[tuple[Path, dict[str, int]]],
    files: OpenFiles,
    layers: Sequence[Sequence[int]] | None,
) -> Checkpoint:
    ranks = [
        Rank(name=member.name, coordinates=coordinates, tensors=_read_one(member, files))
        for member, coordinates in members
    ]
    check_grid(ranks, folder)
    ranks = group_ranks(ranks)
    axes = {axis: 1 + max(rank.coordinates[axis] for rank in ranks) for axis in ranks[0].coordinates}
    told = ", ".join(f"{axis}={size}" for axis, size in sorted(axes.items()))
    return Checkpoint(tensors=collect(ranks, layers), told=f"{len(ranks)} ranks ({told})")


def _read_one(path: Path, files: OpenFiles) -> dict[str, Piece]:
    """The tensors of one file, or of a folder whose files are not of several ranks."""
    if not path.is_dir():
        return read_file(path, files)
    if (path / METADATA).exists():
        return read_distributed(path, files)
    index = _find_index(path)
    if index is not None:
        return read_indexed(index, files, read_file)
    tensors: dict[str, Piece] = {}
    for file in list_members(path)["files"]:
        found = read_file(file, files)
        twice = next((name for name in found if name in tensors), None)
        if twice is not None:
            raise CannotRunError(
                f"{printable(path)} has {printable(twice)} in two files, and nothing in their names says that these "
                "are of different ranks; name them rank_0, rank_1, ..."
            )
        tensors |= found
    return tensors


def read_file(path: Path, files: OpenFiles) -> dict[str, Piece]:
    """The tensors of one file: of torch.save, if it is a zip archive, else of safetensors."""
    start = b""
    try:
        if path.is_file():  # to open a pipe would wait for a writer
            with path.open("rb") as file:
                start = file.read(len(ZIP))
    except (OSError, ValueError):
        pass  # what is wrong is said below
    return read_torch(path, files) if start == ZIP else read_safetensors(path, files)


def _find_index(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    found = sorted(folder.glob("*.index.json"))
    safe = [path for path in found if "safetensors" in path.name]
    return next(iter(safe or found), None)
