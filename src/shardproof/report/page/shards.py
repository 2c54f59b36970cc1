"""Which part of a tensor each rank holds, drawn as one small box for each rank, and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.report.page.description import RankDrawing, Rectangle, ShardDrawing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.proving.evidence import Box, ShardMap

WIDTH, HEIGHT = 24.0, 14.0  # of the box of one rank
_MOST_RANKS = 8
_LEAST = 0.8  # a part is drawn at least this wide


def draw_shards(shards: ShardMap | None) -> ShardDrawing | None:
    """The drawing; None where it is not known which part each rank holds."""
    if shards is None or not shards.boxes:
        return None
    split = find_split_dims(shards)
    drawn = [
        RankDrawing(rank=rank, parts=_draw_box(box, shards.shape, split))
        for rank, box in sorted(shards.boxes.items())[:_MOST_RANKS]
    ]
    return ShardDrawing(ranks=tuple(drawn), words=describe_shards(shards), more=max(0, len(shards.boxes) - _MOST_RANKS))


def find_split_dims(shards: ShardMap) -> tuple[int, ...]:
    """The dims of which some rank holds only some indices."""
    return tuple(
        dim
        for dim, length in enumerate(shards.shape)
        if any(box[dim] != ((0, length),) for box in shards.boxes.values())
    )


def describe_shards(shards: ShardMap) -> str:
    """In words: 'split along dim 0: rank 0 holds 0 to 15, rank 1 holds 16 to 31'."""
    split = find_split_dims(shards)
    if not split:
        return f"whole on each of {len(shards.boxes)} ranks" if len(shards.boxes) > 1 else "whole"
    dims = " and ".join(map(str, split))
    told = [
        f"rank {rank} holds {' of '.join(_say_ranges(box[dim]) for dim in split)}"
        for rank, box in sorted(shards.boxes.items())[:_MOST_RANKS]
    ]
    more = len(shards.boxes) - _MOST_RANKS
    return f"split along dim {dims}: {', '.join(told)}{f' and {more} more ranks' if more > 0 else ''}"


def _say_ranges(ranges: Sequence[tuple[int, int]]) -> str:
    return " and ".join(str(start) if stop == start + 1 else f"{start} to {stop - 1}" for start, stop in ranges)


def _draw_box(box: Box, shape: Sequence[int], split: Sequence[int]) -> tuple[Rectangle, ...]:
    """The part of a rank: its last split dim runs from left to right, the one before from top to bottom."""
    across = _scale(box[split[-1]], shape[split[-1]], WIDTH) if split else [(0.0, WIDTH)]
    down = _scale(box[split[-2]], shape[split[-2]], HEIGHT) if len(split) > 1 else [(0.0, HEIGHT)]
    return tuple(
        Rectangle(x=round(x, 2), y=round(y, 2), width=round(width, 2), height=round(height, 2))
        for y, height in down
        for x, width in across
    )


def _scale(ranges: Sequence[tuple[int, int]], length: int, size: float) -> list[tuple[float, float]]:
    return [(start / length * size, max(_LEAST, (stop - start) / length * size)) for start, stop in ranges]
