"""A step of 2048-8192-2048 at batch 512, by hand on 64 simulated devices, against the same step by hand on one.

The number of operations is the same; 64 devices add smaller products, sums of partial values and switches of ranks.
Both run on one thread, because with several threads other processes on the machine would disturb the measurement.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from benchmarks.measure import Row, interleave
from shardproof.byhand import n_devices, one_device
from shardproof.byhand.data import Batch
from shardproof.byhand.functions import ACTIVATIONS, LOSSES
from shardproof.byhand.model import initialise_layers
from shardproof.byhand.sharding import plan_splits, shard_layers
from shardproof.worlds.simulated import SimulatedWorld

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shardproof.byhand.model import Layer
    from shardproof.byhand.sharding import LayerSplit, Split
    from shardproof.worlds.communicator import Communicator

WIDTHS = (2048, 8192, 2048)
BATCH = 512
DEVICES = 64
LR = 0.01
TARGET = 1.6
SPLITS: tuple[tuple[Split, ...], ...] = (("column", "column"), ("column", "row"))
GELU, MSE = ACTIVATIONS["gelu"], LOSSES["mse"]


def rows() -> Iterable[Row]:
    """One row for each split."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    layers = initialise_layers(WIDTHS, seed=1)
    generator = torch.Generator().manual_seed(2)
    batch = Batch(
        x=torch.randn(BATCH, WIDTHS[0], generator=generator), y=torch.randn(BATCH, WIDTHS[-1], generator=generator)
    )
    variants = {"unsharded": partial(one_device.take_step, layers, batch, activation=GELU, loss=MSE, lr=LR)}
    for splits in SPLITS:
        variants["-".join(splits)] = _prepare(layers, splits, batch)
    timings = interleave(variants, rounds=7)
    torch.set_num_threads(threads)
    for splits in SPLITS:
        name = "-".join(splits)
        yield Row(
            what=f"simulated, {DEVICES} devices: 2048-8192-2048, {name}",
            ours=timings[name].median,
            peer_name="unsharded step by hand",
            peer=timings["unsharded"].median,
            unit="ms",
            target=TARGET,
            spread=timings[name].spread,
        )


def _prepare(layers: Sequence[Layer], splits: tuple[Split, ...], batch: Batch) -> partial[object]:
    layer_splits = plan_splits(WIDTHS, splits)
    shards = [shard_layers(layers, layer_splits, rank=rank, size=DEVICES) for rank in range(DEVICES)]
    return partial(SimulatedWorld(size=DEVICES).run, take_step, shards, layer_splits, batch)


def take_step(
    comm: Communicator, shards_of_ranks: Sequence[Sequence[Layer]], layer_splits: Sequence[LayerSplit], batch: Batch
) -> tuple[Layer, ...]:
    """One rank's step on shards that are already cut."""
    shards = shards_of_ranks[comm.rank]
    saved = n_devices.forward(comm, shards, layer_splits, batch.x, GELU)
    dout = n_devices.backward_of_loss(comm, layer_splits, MSE.backward, saved.out, batch.y)
    gradients = n_devices.backward(comm, shards, layer_splits, saved, dout, activation=GELU)
    return one_device.update(shards, gradients, LR)
