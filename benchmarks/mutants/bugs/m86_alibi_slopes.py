"""Every rank computes ALiBi's slopes for the first heads, as if it had these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.gpt import GPTSizes, gpt_step
from benchmarks.mutants.models.gpt_plans import plain_shards
from benchmarks.mutants.steps import adamw
from shardproof.proving.cause import CauseKind

if TYPE_CHECKING:
    from torch import nn


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, mesh: object) -> nn.Module:
        model = plain_shards(model, mesh)
        if planted:
            for block in model.blocks:
                block.attention.first_head = 0
        return model

    step = gpt_step(GPTSizes(positions="alibi"), optimizer=adamw, steps=1)
    return sharded("slopes of the heads that a rank has", step, parallelize, 2)


BUG = Bug(
    id="M86",
    name="alibi-of-first-heads",
    phase="F",
    seen_in="text-generation-inference, bloom",
    root="input blocks.0.attention/softmax",
    cause=CauseKind.OTHER_CONSTANTS,
    plant=plant,
)
