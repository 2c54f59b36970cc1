"""One training step of a split MLP on two gloo ranks of one thread each: ours, DTensor's, Megatron-style, and floors.

All variants run in the same two processes, in turns. The floor is our step without its collectives, plus the
collectives alone; DTensor's own floor is its step with collectives that return at once. Memory: the rise from before
the model is built (the full one, then cut) to after two Adam steps.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from benchmarks.measure import Row, Timing
from benchmarks.parallel_steps.steps import Size, Split, peak_of_training, time_variants
from shardproof.worlds.spawned import SpawnedWorld

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RANKS = 2
SIZES = {
    "tiny": Size(widths=(6, 4, 2), batch=32, gelu=True, steps=20, rounds=25),
    "medium": Size(widths=(512, 2048, 512), batch=128, gelu=False, steps=5, rounds=25),
    "large": Size(widths=(2048, 8192, 2048), batch=512, gelu=True, steps=1, rounds=9),
}
SPLITS: tuple[Split, ...] = ("column-column", "column-row")
DTENSOR_TARGETS = {"tiny": 0.4, "medium": 0.65, "large": 1.0}
MEGATRON_TARGET = 1.0
DTENSOR_FLOOR_TARGET = 1.0
FLOOR_TARGETS = {"tiny": 1.5, "medium": 1.15, "large": 1.15}
MEMORY_WIDTHS = (2048, 8192, 2048)
MEMORY_TARGET = 0.6


def rows() -> Iterable[Row]:
    """Four rows for each size and split, then the memory."""
    yield from time_steps()
    for split in SPLITS:
        alone, rank = (max(SpawnedWorld(size=n).run(peak_of_training, MEMORY_WIDTHS, split)) for n in (1, RANKS))
        yield Row(
            what=f"parallel: peak memory of a rank, Adam, {split}",
            ours=rank,
            peer_name="one device",
            peer=alone,
            unit="MiB",
            target=MEMORY_TARGET,
        )


def time_steps(*, of_cpu: bool = False) -> Iterable[Row]:
    """Four rows for each size and split: time of the wall, or of the CPU."""
    for name, size in SIZES.items():
        for split in SPLITS:
            timed = partial(time_variants, of_cpu=of_cpu)
            ranks = SpawnedWorld(size=RANKS, timeout=600).run(timed, size, split)
            slowest = {variant: max((rank[variant] for rank in ranks), key=lambda t: t.median) for variant in ranks[0]}
            yield from _compare(name, split, slowest, unit="ms of CPU" if of_cpu else "ms")


def _compare(name: str, split: Split, timings: Mapping[str, Timing], *, unit: str) -> Iterable[Row]:
    ours = timings["ours"]
    floor = timings["without collectives"].median + timings["collectives alone"].median
    peers = (
        ("DTensor", timings["DTensor"].median, DTENSOR_TARGETS[name]),
        ("DTensor without collectives", timings["DTensor without collectives"].median, DTENSOR_FLOOR_TARGET),
        ("Megatron-style", timings["Megatron-style"].median, MEGATRON_TARGET),
        ("arithmetic + collectives", floor, FLOOR_TARGETS[name]),
    )
    for peer_name, peer, target in peers:
        yield Row(
            what=f"parallel: {name}, {split}",
            ours=ours.median,
            peer_name=peer_name,
            peer=peer,
            unit=unit,
            target=target,
            spread=ours.spread,
        )
