"""The learning rate is doubled, in a training whose activations are permuted, and right."""

from __future__ import annotations

from fractions import Fraction

import torch

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, trained
from benchmarks.mutants.models.zigzag import zigzag, zigzag_step, zigzag_training
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    candidate = zigzag_training(zigzag, lambda parameters: torch.optim.SGD(parameters, lr=0.2 if planted else 0.1))
    step = zigzag_step(lambda parameters: torch.optim.SGD(parameters, lr=0.1), steps=1)
    return trained("zigzag sequences, one step of descent", step, candidate, 2)


BUG = Bug(
    id="M101",
    name="learning-rate-doubled",
    phase="U",
    seen_in="bionemo-recipes#1449",
    root="updated parameter *",
    cause=CauseKind.STEP_SCALED,
    factor=Fraction(2),
    plant=plant,
)
