"""Both sides of a mutant in ordinary float32, for the baselines."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import torch
from torch.distributed.device_mesh import init_device_mesh

from benchmarks.mutants.baselines import Natively, count_collectives
from shardproof.proving.records import Precision
from shardproof.proving.running.batch import copy_batch
from shardproof.proving.running.candidate import run_candidate
from shardproof.proving.running.capture import Recorder, clone_parameters
from shardproof.proving.running.models import build_model, draw_parameters
from shardproof.proving.running.request import RunContext, RunRequest, Start
from shardproof.proving.running.training import train
from shardproof.worlds.threaded import ThreadedWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from shardproof.proving.running.candidate import Candidate
    from shardproof.proving.running.models import Parallelize
    from shardproof.proving.step import Step
    from shardproof.worlds.communicator import Communicator


def reference_natively(step: Step) -> tuple[Natively, Mapping[str, Tensor]]:
    """The run on one device, and the full state that it started from."""
    model = build_model(step, 0).double()
    draw_parameters(model, 0)
    state = {name: tensor.float().double() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    return _take(model, step), state


def parallelized_natively(
    step: Step, parallelize: Parallelize, devices: int, state: Mapping[str, Tensor]
) -> list[Natively]:
    """The run of each rank."""

    def run(comm: Communicator) -> Natively:
        model = build_model(step, 0).double()
        model.load_state_dict(state)
        mesh = init_device_mesh("cpu", (comm.size,), mesh_dim_names=("tp",))
        return _take(parallelize(model, mesh), step)

    return run_counted(devices, run)


def trained_natively(
    step: Step, candidate: Candidate, mesh: Mapping[str, int], state: Mapping[str, Tensor]
) -> list[Natively]:
    """The run of each rank in a training step of the user's own."""

    def run(_comm: Communicator) -> Natively:
        request = RunRequest(mesh=mesh, native=(Precision.FLOAT32,))
        side = run_candidate(RunContext(step=step, request=request, ordinary=Start(state=state)), candidate)
        return Natively(parameters=side.parameters, records=side.native[Precision.FLOAT32])

    return run_counted(prod(mesh.values()), run)


def run_counted(devices: int, run: Callable[[Communicator], Natively]) -> list[Natively]:
    """Each rank's run, and the collectives that it called."""
    with count_collectives() as counts:
        ranks = ThreadedWorld(size=devices).run(run)
    return [replace(one, collectives=counts[rank]) for rank, one in enumerate(ranks)]


def _take(model: nn.Module, step: Step) -> Natively:
    parameters = clone_parameters(model)
    recorder = Recorder()
    train(model.to(torch.float32), step, copy_batch(step.batch, torch.float32), recorder)
    return Natively(parameters=parameters, records=recorder.records)
