"""The files of ranks in a folder, and which rank each is of, by their names."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from shardproof.checkpoints.checkpoint import Rank

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
# Megatron's folders: tensor-parallel, pipeline stage, expert.
_MEGATRON = re.compile(r"mp_rank_(\d+)(?:_(\d+))?(?:_(\d+))?(?![\d])")
_AXIS = re.compile(r"(?<![a-z])(tp|pp|dp|ep|cp)(?:[-_]?rank)?[-_.]?(\d+)(?!\d)", re.IGNORECASE)
_RANK = re.compile(r"(?:(?<![a-z])rank|(?<![a-z])consolidated|(?<![a-z])shard)[-_.]?(\d+)(?!\d)", re.IGNORECASE)
_ALIKE = 0.5


def find_coordinates(name: str) -> dict[str, int]:
    """Which rank a file or folder is of, by its name without suffix, such as `mp_rank_01_000` and `model-tp1-pp0`."""
    megatron = _MEGATRON.search(name)
    if megatron is not None:
        return {axis: int(number) for axis, number in zip(("tp", "pp", "ep"), megatron.groups(), strict=True) if number}
    named = {axis.lower(): int(number) for axis, number in _AXIS.findall(name)}
    if named:
        return named
    rank = _RANK.search(name)
    return {"rank": int(rank[1])} if rank is not None else {}


def list_members(folder: Path) -> dict[str, list[Path]]:
    """Files with tensors, and folders of ranks, by name; hidden ones and those of other kinds are left out.

    Raises:
        CannotRunError: the folder cannot be read.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise CannotRunError(f"{printable(folder)} cannot be read: {error.strerror}") from error
    visible = [path for path in entries if not path.name.startswith(".")]
    return {
        "files": [path for path in visible if path.suffix in SUFFIXES and not path.is_dir()],
        "folders": [path for path in visible if path.is_dir() and find_coordinates(path.name)],
        "others": [path for path in visible if path.is_dir() and not find_coordinates(path.name)],
    }


def check_grid(ranks: Sequence[Rank], folder: Path) -> None:
    """Every axis has the ranks 0 to n - 1, and every combination of them is there once.

    Raises:
        CannotRunError: one is missing, or there twice; some files name an axis that others don't.
    """
    shown = printable(folder)
    axes = {tuple(sorted(rank.coordinates)) for rank in ranks}
    if len(axes) > 1:
        told = " and ".join(",".join(names) or "none" for names in sorted(axes))
        raise CannotRunError(
            f"{shown}: the names of its files have different axes ({told}); give a folder of one checkpoint"
        )
    found = Counter(tuple(sorted(rank.coordinates.items())) for rank in ranks)
    twice = next((key for key, count in found.items() if count > 1), None)
    if twice is not None:
        raise CannotRunError(f"{shown} has {_tell(twice)} twice; give a folder of one checkpoint")
    sizes = {axis: 1 + max(rank.coordinates[axis] for rank in ranks) for axis in next(iter(axes))}
    for numbers in product(*(range(min(size, len(ranks) + 1)) for size in sizes.values())):
        key = tuple(zip(sizes, numbers, strict=True))
        if key not in found:
            raise CannotRunError(f"{shown} has no file of {_tell(key)}, but of ranks beside it; all ranks are needed")


def group_ranks(ranks: Sequence[Rank]) -> list[Rank]:
    """Ranks that are only numbered, as pipeline stages of tensor-parallel ranks where their tensors' names show it.

    Ranks of one stage have most names in common; those of different stages few. Stages have equally many ranks.
    """
    if any(set(rank.coordinates) != {"rank"} for rank in ranks):
        return list(ranks)
    groups: list[list[Rank]] = []
    for rank in sorted(ranks, key=lambda one: one.coordinates["rank"]):
        group = next((group for group in groups if _are_alike(group[0], rank)), None)
        if group is None:
            groups.append([rank])
        else:
            group.append(rank)
    if len(groups) == 1 or len({len(group) for group in groups}) > 1:
        return list(ranks)
    return [
        replace(rank, coordinates={"tp": tp, "pp": pp})
        for pp, group in enumerate(groups)
        for tp, rank in enumerate(group)
    ]


def find_own_names(ranks: Sequence[Rank]) -> dict[int, set[str]]:
    """For each rank (its place in the list), the patterns of names that it alone has, or has other numbers of.

    A rank that lacks a tensor but has others of that pattern, which the holders lack, holds its own: experts, layers.
    """
    held_by: defaultdict[str, set[int]] = defaultdict(set)
    for place, rank in enumerate(ranks):
        for name in rank.tensors:
            held_by[name].add(place)
    own: dict[int, set[str]] = {place: set() for place in range(len(ranks))}
    for name, places in held_by.items():
        if len(places) < len(ranks):
            for place in places:
                own[place].add(pattern_of(name))
    return own


def pattern_of(name: str) -> str:
    """A name with its numbers left out: `experts.*.up.weight`."""
    return re.sub(r"\d+", "*", name)


def _are_alike(one: Rank, other: Rank) -> bool:
    both = len(one.tensors.keys() & other.tensors.keys())
    return both > _ALIKE * min(len(one.tensors), len(other.tensors))


def _tell(key: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{axis} {number}" for axis, number in key)
