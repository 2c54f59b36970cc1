"""Experts that get no rows are passed over: their rank has no gradient for them, and the optimizer no step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.models.expert_parallel import expert_parallel, routed_step
from benchmarks.mutants.steps import adamw
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh

ROUTES = (0, 1, 1, 0, 0, 1, 0, 1)  # the second rank's experts get nothing


def plant(planted: bool) -> Configuration:
    split = expert_parallel()

    def parallelize(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        model = split(model, mesh)
        run = model.moe.apply_experts

        def run_if_any(rows: Tensor, counts: list[int]) -> Tensor:
            return run(rows, counts) if len(rows) else rows

        if planted:
            model.moe.apply_experts = run_if_any
        return model

    step = routed_step(8, adamw, routes=ROUTES)
    allow = ("VACUOUS * moe.weights*",)
    return on_mesh("a rank whose experts get no tokens", step, parallelize, {"dp": 2}, allow=allow)


def why() -> str:
    return "the experts that get no tokens decay on one device and not here, and no token of the run shows it"


BUG = Bug(
    id="M134",
    name="experts-without-tokens-skipped",
    phase="B",
    seen_in="Megatron-LM#1877",
    root="gradient moe.weights",
    cause=CauseKind.MISSING_GRADIENT,
    plant=plant,
    shown_by=why,
)
