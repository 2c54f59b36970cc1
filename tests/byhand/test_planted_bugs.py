"""A step with a bug in it is not approximate: one bug at a time, on the comparisons that it should break."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from shardproof.byhand import n_devices
from shardproof.byhand.functions import LOSSES, Loss, mean_squared_error_forward
from shardproof.byhand.settings import Settings
from shardproof.byhand.walkthrough import take_steps
from shardproof.worlds.simulated import SimulatedWorld

BASE = Settings(widths=(6, 8, 4, 5), devices=2, splits=("column",) * 3, activation="gelu")


@dataclass(frozen=True)
class FaultyCommunicator:
    """Another communicator with one collective replaced by `fault(inner, tensor, **arguments)`."""

    inner: object
    collective: str
    fault: object

    def __getattr__(self, name):
        if name == self.collective:
            return lambda tensor, **arguments: self.fault(self.inner, tensor, **arguments)
        return getattr(self.inner, name)


@dataclass(frozen=True)
class FaultyWorld:
    size: int
    collective: str
    fault: object
    speaks: bool = True

    def run(self, fn, *args):
        return SimulatedWorld(size=self.size).run(
            lambda comm, *args: fn(FaultyCommunicator(comm, self.collective, self.fault), *args), *args
        )


def keep_own_slice(comm, partial, *, dim, name):
    """A reduce-scatter without its sum."""
    return partial.tensor_split(comm.size, dim=dim)[comm.rank]


def scatter_average(comm, partial, *, dim, name):
    return comm.reduce_scatter(partial, dim=dim, name=name) / comm.size


def skip_sum(comm, partial, *, name):
    return partial


def average(comm, partial, *, name):
    return comm.all_reduce(partial, name=name) / comm.size


def swap_shards(comm, shard, *, dim, total, name):
    whole = comm.all_gather(shard, dim=dim, total=total, name=name)
    return whole.roll(total // comm.size, dims=dim)


def find_diverged(settings, world=None):
    (report,) = take_steps(settings, world or SimulatedWorld(size=settings.devices))
    return {line.name for line in report.comparisons if not line.approximate}


def test_no_bug_no_divergence():
    for splits in (("column",) * 3, ("row",) * 3, ("column", "row", "column"), ("row", "column", "row")):
        assert find_diverged(replace(BASE, splits=splits)) == set()


LOWER = {f"d{part}{layer}_{rank}" for part in "Wb" for layer in (1, 2) for rank in (0, 1)}


@pytest.mark.parametrize(
    ("splits", "collective", "fault", "broken"),
    [
        ("column,column,column", "reduce_scatter", keep_own_slice, LOWER),
        ("column,column,column", "reduce_scatter", scatter_average, LOWER),
        ("column,column,column", "all_gather", swap_shards, {"TP - forward pass", "dW3_0", "dW3_1"}),
        ("row,column,row", "all_reduce", skip_sum, {"TP - forward pass"}),
        ("row,column,row", "all_reduce", average, {"TP - forward pass"}),
        ("row,row,row", "reduce_scatter", keep_own_slice, {"TP - forward pass"}),
        ("row,row,row", "all_gather", swap_shards, {"dW1_0", "dW1_1", "dW2_0", "dW2_1"}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_broken_collective_is_seen(splits, collective, fault, broken, dtype):
    settings = replace(BASE, splits=tuple(splits.split(",")), dtype=dtype)
    diverged = find_diverged(settings, FaultyWorld(size=2, collective=collective, fault=fault))
    if dtype is torch.float32:
        assert broken <= diverged
    assert diverged
    # The one device's own step has no part in it.
    assert all("_" in name or name.startswith("TP") for name in diverged)
    assert not any(name.startswith("manual") for name in diverged)


def test_replicas_that_part_are_named():
    world = FaultyWorld(size=2, collective="all_reduce", fault=skip_sum)
    assert "TP - forward pass_1" in find_diverged(replace(BASE, splits=("column", "row", "row")), world)


def test_row_bias_added_on_every_device_is_seen(monkeypatch):
    real = n_devices.shard_layers

    def count_bias_n_times(layers, layer_splits, *, rank, size):
        shards = real(layers, layer_splits, rank=rank, size=size)
        return tuple(
            shard if layer_split.z_is_sharded else replace(shard, b=shard.b * size)
            for shard, layer_split in zip(shards, layer_splits, strict=True)
        )

    monkeypatch.setattr(n_devices, "shard_layers", count_bias_n_times)
    assert "TP - forward pass" in find_diverged(replace(BASE, splits=("column", "row", "row")))


def test_devices_that_update_from_a_wrong_gradient_are_seen(monkeypatch):
    real = n_devices.update
    monkeypatch.setattr(n_devices, "update", lambda shards, gradients, lr: real(shards, gradients, lr * 1.01))
    assert {"TP - manual_nW1", "TP - manual_nb3"} <= find_diverged(BASE)


@pytest.mark.parametrize(("outputs", "wrong"), [(2, False), (3, True), (1, True)])
def test_the_notebooks_factor_is_right_for_two_outputs_only(monkeypatch, outputs, wrong):
    def notebook(out, y, columns=slice(None)):
        return (out[:, columns] - y[:, columns]) / out.shape[0]

    monkeypatch.setitem(LOSSES, "mse", Loss(forward=mean_squared_error_forward, backward=notebook))
    diverged = find_diverged(Settings(widths=(6, 4, outputs), devices=1))
    assert bool(diverged) is wrong
    assert ("dW2" in diverged) is wrong


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.001, 2.0])
def test_small_gradients_are_not_too_small_to_be_compared(monkeypatch, factor):
    """Gradients of a mean over many outputs are far below torch.testing's atol of 1e-5, which would pass anything."""
    real = LOSSES["mse"]

    def scaled(out, y, columns=slice(None)):
        return real.backward(out, y, columns) * factor

    monkeypatch.setitem(LOSSES, "mse", Loss(forward=real.forward, backward=scaled))
    settings = Settings(widths=(8, 16, 4096), devices=4, samples=128, batch_size=128)
    (report,) = take_steps(settings, SimulatedWorld(size=4))
    diverged = {line.name for line in report.comparisons if not line.approximate}
    assert {"dW1", "db1", "dW2", "db2", "dW1_0", "dW2_3"} <= diverged
