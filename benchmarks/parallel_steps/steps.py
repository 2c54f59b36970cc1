"""One training step of a split MLP, in every variant, on one rank; and the peak memory of training."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.measure import Timing, interleave
from benchmarks.parallel_steps import megatron
from benchmarks.parallel_steps.floors import mesh_without_communication, record_collectives, without_collectives
from shardproof.parallel.axis import Axis
from shardproof.parallel.linear import ColumnLinear, RowLinear

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.worlds.communicator import Communicator

Split = Literal["column-column", "column-row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The sizes of an MLP and its batch; `steps` are timed together, in each of `rounds` rounds."""

    widths: tuple[int, int, int]
    batch: int
    gelu: bool
    steps: int
    rounds: int


def time_variants(comm: Communicator, size: Size, split: Split, *, of_cpu: bool = False) -> dict[str, Timing]:
    """The time of a step of each variant on this rank, with one thread; `of_cpu`: the CPU's, of this rank's process."""
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (comm.size,), mesh_dim_names=("tp",))
    torch.manual_seed(0)
    i, h, o = size.widths
    whole = nn.Sequential(nn.Linear(i, h), nn.GELU() if size.gelu else nn.Identity(), nn.Linear(h, o))
    batch = torch.randn(size.batch, i), torch.randn(size.batch, o)
    ours = _make_step(_split_as_we_do(copy.deepcopy(whole), mesh, split), batch)
    without = _make_step(_split_as_we_do(copy.deepcopy(whole), mesh, split), batch)

    def step_without_collectives() -> None:
        with without_collectives():
            without()

    variants = {
        "DTensor": _make_step(_split_as_dtensor(copy.deepcopy(whole), mesh, split), batch),
        "Megatron-style": _make_step(_split_as_megatron(copy.deepcopy(whole), comm, split), batch),
        "ours": ours,
    }
    _check_alike(variants)
    silent = _split_as_dtensor(copy.deepcopy(whole), mesh_without_communication(), split)
    variants |= {
        "without collectives": step_without_collectives,
        "collectives alone": record_collectives(ours),
        "DTensor without collectives": _make_step(silent, batch),
    }
    several = {name: _repeat(step, size.steps) for name, step in variants.items()}
    clock = time.process_time if of_cpu else time.perf_counter
    timings = interleave(several, rounds=size.rounds, before=dist.barrier, clock=clock)
    return {name: Timing(median=t.median / size.steps, spread=t.spread) for name, t in timings.items()}


def peak_of_training(comm: Communicator, widths: tuple[int, int, int], split: Split) -> float:
    """The rise of this process's peak memory, in MiB, from before the model is built to after two Adam steps."""
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (comm.size,), mesh_dim_names=("tp",))
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _read_kib("VmRSS")
    i, h, o = widths
    model = _split_as_we_do(nn.Sequential(nn.Linear(i, h), nn.GELU(), nn.Linear(h, o)), mesh, split)
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    for _ in range(2):
        optimizer.zero_grad()
        F.mse_loss(model(torch.ones(8, i)), torch.ones(8, o)).backward()
        optimizer.step()
    return (_read_kib("VmHWM") - before) / 1024


def _split_as_we_do(model: nn.Sequential, mesh: DeviceMesh, split: Split) -> nn.Module:
    axis = Axis.of(mesh, "tp")
    model[0] = ColumnLinear.from_linear(model[0], axis)
    if split == "column-column":
        model[2] = ColumnLinear.from_linear(model[2], axis, input=Shard(-1), output=Replicate())
    else:
        model[2] = RowLinear.from_linear(model[2], axis)
    return model


def _split_as_dtensor(model: nn.Sequential, mesh: DeviceMesh, split: Split) -> nn.Module:
    second = RowwiseParallel()
    if split == "column-column":
        second = ColwiseParallel(input_layouts=Shard(-1), output_layouts=Replicate())
    return parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": second})


def _split_as_megatron(model: nn.Sequential, comm: Communicator, split: Split) -> nn.Module:
    made = megatron.ColumnColumn if split == "column-column" else megatron.ColumnRow
    return made(model, comm.rank, comm.size)


def _make_step(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> Callable[[], float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, foreach=True)
    x, y = batch

    def step() -> float:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _check_alike(variants: dict[str, Callable[[], float]]) -> None:
    """Check that all variants have the same loss after three steps, so that they compute the same."""
    losses = {name: [step() for _ in range(3)][-1] for name, step in variants.items()}
    assert max(losses.values()) - min(losses.values()) < 1e-4 * max(losses.values()), losses


def _repeat(step: Callable[[], object], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            step()

    return run


def _read_kib(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
