"""The ranks scale one expert twice; no token of the batch goes there, and its gradient is None on both sides."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.experts import ROUTES, expert_step, split_experts
from shardproof.proving.cause import CauseKind


def plant(planted: bool, routes: torch.Tensor = ROUTES) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_experts(model)
        model.scales[2] = 2.0 if planted else 1.0
        return model

    allow = () if planted else ("VACUOUS * experts.2.*",)
    return sharded("experts of which one gets no tokens", expert_step(routes), parallelize, 2, allow=allow)


def with_tokens() -> Configuration:
    """The same bug on a batch that sends tokens to every expert."""
    return replace(plant(True, torch.tensor([0, 1, 2, 3, 2, 1])), name="every expert gets tokens")


BUG = Bug(
    id="M70",
    name="unused-expert-scaled",
    phase="F",
    seen_in="review: nothing passes unseen",
    root="gradient experts.2.*",
    cause=CauseKind.NO_GRADIENT,
    plant=plant,
    shown_by=with_tokens,
)
