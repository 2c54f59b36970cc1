"""The prover: a whole proof of a small llama, one trial, a trial against a float32 step, and memory by ranks.

"Peers" that are seconds are targets: the ratio says how much of the time allowed is used.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.bench_exact import Block
from benchmarks.measure import Row, interleave, peak_extra_mib
from shardproof.frameworks.specification import Specification
from shardproof.proving.prove import prove
from shardproof.proving.running.both_sides import run_in_threads
from shardproof.proving.running.models import build_model, own_dtypes
from shardproof.proving.running.one_rank import run_reference
from shardproof.proving.running.request import RunContext, RunRequest, Start
from shardproof.proving.running.target import ProofTarget
from shardproof.proving.step import Step
from shardproof.worlds.threaded import ThreadedWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch.distributed.device_mesh import DeviceMesh

HIDDEN, LAYERS, SEQUENCE, BATCH = 512, 4, 256, 1


def rows() -> Iterable[Row]:
    """From the shell, in a process, one trial, a large block, memory."""
    yield from _small_proofs()
    yield _large_trial()
    yield from _memory()


# A small model, end to end --------------------------------------------------------------------------------------------


def _small_proofs() -> Iterable[Row]:
    """Two layers of hidden 32, two ranks, three steps."""
    command = [sys.executable, "-m", "shardproof", "prove", "hf:llama", "--devices", "2"]
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - our own command
    yield _seconds("prove hf:llama from the shell", time.perf_counter() - started, 6)
    subject = Specification(step="hf:llama").load()

    def run(trials: int) -> Callable[[], object]:
        return lambda: prove(subject.step, parallelize=subject.parallelize, devices=2, trials=trials)

    timings = interleave({"three": run(3), "one": run(1)}, rounds=3)
    yield _seconds("prove hf:llama, imported", timings["three"].median / 1e3, 3.5)
    yield _seconds("prove hf:llama, imported, one trial", timings["one"].median / 1e3, 1.5)


def _seconds(what: str, seconds: float, allowed: float) -> Row:
    return Row(what=what, ours=seconds, peer_name="allowed", peer=allowed, unit="s", target=1)


# One trial of a larger model ------------------------------------------------------------------------------------------


def make_blocks() -> nn.Sequential:
    """Pre-norm transformer blocks with fused q, k and v."""
    return nn.Sequential(*[Block(HIDDEN, 8) for _ in range(LAYERS)])


def make_step() -> Step:
    """One step of SGD."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, BATCH, SEQUENCE, HIDDEN, generator=generator)
    return Step(
        model=make_blocks,
        batch=(x, y),
        loss=F.mse_loss,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        steps=1,
    )


def split_mlps(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Every MLP column- and row-split by DTensor; attention replicated."""
    styles = {"up": ColwiseParallel, "down": RowwiseParallel}
    plan = {f"{i}.{name}": style() for i in range(LAYERS) for name, style in styles.items()}
    return parallelize_module(model, mesh, plan)


def run_trial(devices: int) -> None:
    """The reference and the simulated candidate, once, in exact arithmetic; no devices: the reference alone."""
    step = make_step()
    model = build_model(step, 0).double()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    request = RunRequest(mesh={"tp": max(devices, 1)}, seeds=(0,), dtypes=own_dtypes(model))
    start = Start(state=state)
    run_reference(RunContext(step=step, request=request, exact=start, arithmetics=request.make_arithmetics()))
    if devices:
        target = ProofTarget(step=step, parallelize=split_mlps)
        run_in_threads(ThreadedWorld(size=devices), target, request, start, Start())


def _large_trial() -> Row:
    """Against one step of the same model in float32, the optimizer's included."""
    torch.manual_seed(0)
    step, model = make_step(), make_blocks()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def plain() -> None:
        optimizer.zero_grad()
        step.compute_loss(model, step.batch).backward()
        optimizer.step()

    timings = interleave({"trial": lambda: run_trial(2), "float32": plain}, rounds=3)
    return Row(
        what=f"one trial, 2 ranks, {LAYERS} blocks of hidden {HIDDEN}, sequence {SEQUENCE}",
        ours=timings["trial"].median,
        peer_name="float32 step",
        peer=timings["float32"].median,
        unit="ms",
        target=20,
        spread=timings["trial"].spread,
    )


def _memory() -> Iterable[Row]:
    """Of one trial on N simulated ranks, against the exact reference's."""
    prepare = "from benchmarks.bench_prove import run_trial"
    alone = peak_extra_mib(prepare, "run_trial(0)")
    for devices in (2, 4):
        yield Row(
            what=f"memory of one trial, {devices} ranks, the same blocks",
            ours=peak_extra_mib(prepare, f"run_trial({devices})"),
            peer_name="exact reference",
            peer=alone,
            unit="MiB",
            target=devices + 2,
        )
